"""Recipes: the schema, TOML in and out, the registry of components, and what settings mean together."""
