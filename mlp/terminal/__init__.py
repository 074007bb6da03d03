"""What is typed and what is shown: Hydra, help, progress, tables."""
