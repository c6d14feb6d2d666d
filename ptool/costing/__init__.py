"""What a training run needs and costs, from figures that name their source. Standard library only: it answers in
100 ms on a login node, before anything is installed there.
"""
