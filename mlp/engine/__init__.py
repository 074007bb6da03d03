"""Trains many networks at once: compiled, the same bits whatever a network is trained with."""
