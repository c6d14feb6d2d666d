"""The command line: a thin skin over the library. `app.py` is the way in."""
