"""Exact and near duplicates: one meaning, decided in stream order against the documents already kept."""
