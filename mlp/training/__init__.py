"""Trials on their way through the engine: in this process or on a cluster, and what is recorded."""
