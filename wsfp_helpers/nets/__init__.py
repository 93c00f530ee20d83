"""The frozen networks that the method builds on."""
