"""One file per rule; its name is the rule's name, and nothing else has to know it.

A file holds one `Rule` (protocol.py): a docstring whose first line says what is measured and which names its source,
the range that is accepted by default, examples that it `keeps` and `drops`, and `measure`.
"""
