"""Detectors of facial components behind one call (paper 3.3)."""
