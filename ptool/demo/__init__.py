"""The whole pipeline on text that every machine has: what `ptool demo` runs."""
