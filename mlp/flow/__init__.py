"""Conducts what the commands ask for."""
