"""Trains networks: who does it and where, with the same result everywhere."""
