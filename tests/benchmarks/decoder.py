"""What the decoder's two shortcuts save, as ratios measured in one run: python -m tests.benchmarks.decoder

Chunked cross-entropy against whole logits: time of a training step (forward and backward), and the largest tensor that
the loss makes. Causal attention without a mask against the segment mask. Medians of interleaved runs, one thread.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import msgspec
import torch
from torch.nn import functional as F

from ptool.models.config import load_size
from ptool.models.decoder import Decoder
from ptool.models.loss import chunk_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="10m")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = msgspec.structs.replace(load_size(given.model).model, vocab_size=given.vocab_size)
    decoder = Decoder(config)
    shape = (given.rows, config.max_seq_len)
    tokens = torch.randint(config.vocab_size, shape)
    positions = torch.arange(shape[1]).expand(shape)
    one = torch.zeros(shape, dtype=torch.int32)
    four = (torch.arange(shape[1], dtype=torch.int32) * 4 // shape[1]).expand(shape)

    def chunked(segments: torch.Tensor = one) -> None:
        decoder(tokens, positions, segments, tokens)[0].backward()

    def whole() -> None:
        logits = decoder.logits(tokens, positions, one).flatten(0, 1)
        F.cross_entropy(logits, tokens.flatten(), reduction="sum").backward()

    times = interleaved({"chunked": chunked, "whole": whole, "masked": lambda: chunked(four)}, given.repeats, decoder)
    num_tokens = tokens.numel()
    print(f"{given.model}, {config.num_parameters():,} parameters, {num_tokens:,} tokens a step, one thread")
    print(f"tokens/s                            {num_tokens / times['chunked']:,.0f}")
    print(f"step, chunked loss / whole logits   {times['chunked'] / times['whole']:.3f}")
    print(f"logits held, chunked / whole        {min(1, chunk_tokens(config.vocab_size) / num_tokens):.3f}")
    print(f"step, segment mask / causal alone   {times['masked'] / times['chunked']:.3f}")


def interleaved(steps: dict[str, Callable[[], None]], repeats: int, decoder: Decoder) -> dict[str, float]:
    """Median seconds of each, run in turns after one turn of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            decoder.zero_grad()
            started = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
