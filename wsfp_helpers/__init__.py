"""Weakly supervised face parsing, step by step: the tested helpers behind the notebooks."""
