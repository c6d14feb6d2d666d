"""Optimisers: torch's own and those it lacks, and what each needs of the tensors it is given."""
