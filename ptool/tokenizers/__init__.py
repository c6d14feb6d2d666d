"""Tokenizers behind one protocol: what tokenize, pack, train's reports and eval share. One module for each backend."""
