"""Training under DeepSpeed: configuration, ranks, the step, checkpoints, spikes.

The parts a newcomer reads first: `config.py` (every setting and its default), `run.py` (what `train` and `resume` do),
`loop.py` (the step). Importing this package imports nothing heavy.
"""
