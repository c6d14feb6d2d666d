"""One file per edit; its name is the edit's name, and nothing else has to know it.

A file holds one `Edit` (protocol.py): a docstring whose first line says what is changed, `changes` with texts before
and after, `leaves` with texts it must not touch, and `apply`.
"""
