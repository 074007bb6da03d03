"""Sweeps of small NumPy networks, tracked, judged and explained."""

__version__ = "0.1.0"
