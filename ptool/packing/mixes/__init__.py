"""Mixes as TOML files: shares of sources as the field has published them; a file's name is the mix's name."""
