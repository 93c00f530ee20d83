"""Detectors of facial components behind one call, and the file that keeps their boxes (paper 3.3)."""
