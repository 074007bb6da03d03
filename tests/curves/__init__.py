"""Labelled loss curves: trained, made by formula, and how the judge and its peers read them."""
