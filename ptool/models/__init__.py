"""The decoder: its shape (torch-free), the module itself, and its weights on disk."""
