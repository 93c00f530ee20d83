"""The data sets behind one interface."""
