"""Runs on their way to MLflow and back."""
