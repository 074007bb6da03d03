"""The causes of oscillation: what `python -m mlp.explain` does, and the same from Python."""
