"""A study: what `python -m mlp.sweep` does, and the same from Python."""
