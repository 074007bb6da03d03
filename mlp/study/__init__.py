"""A search: its space, its identity, what is drawn next."""
