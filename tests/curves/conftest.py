"""Keeps pytest's doctest run away from the script that trains."""

collect_ignore = ["make.py"]  # needs the trainer and yaml, and holds no test
