"""Small packed batches for the tests of the decoder."""

import torch

from ptool.models.config import ModelConfig

SMALL = ModelConfig(vocab_size=61, layers=2, hidden=24, heads=4, kv_heads=2, ffn_hidden=40, max_seq_len=16)


def packed_batch(rows: list[list[int]], seq_len: int, vocab_size: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Random tokens and targets in rows made of segments of the given lengths, padded at the end."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(rows), seq_len)
    tokens = torch.randint(vocab_size, shape, generator=generator)
    targets = torch.randint(vocab_size, shape, generator=generator)
    segments = torch.full(shape, -1, dtype=torch.int32)
    positions = torch.zeros(shape, dtype=torch.int32)
    for row, lengths in enumerate(rows):
        start = 0
        for segment, length in enumerate(lengths):
            segments[row, start : start + length] = segment
            positions[row, start : start + length] = torch.arange(length)
            start += length
    targets[segments < 0] = -100
    return tokens, positions, segments, targets
