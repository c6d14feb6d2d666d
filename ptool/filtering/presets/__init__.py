"""Recipes as TOML files, to use by name or to copy and edit; a file's name is the preset's name."""
