"""The causes of a bad end: what `python -m mlp.explain` does, and the same from Python."""
