"""Heuristic filters: measurements of documents, each with an accepted range."""
