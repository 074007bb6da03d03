"""The same things as the commands, for notebooks and scripts; `import mlp` offers all of it."""
