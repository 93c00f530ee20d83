"""Weakly supervised face parsing, step by step: the tested helpers behind the notebooks."""

from wsfp_helpers import _torchvision_cpu  # noqa: F401 (comes first: it acts when torchvision is imported)
