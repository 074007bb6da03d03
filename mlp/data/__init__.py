"""Threes and sevens: fetched, verified, parted."""
