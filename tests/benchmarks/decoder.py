"""What the decoder's shortcuts save and its options cost, as ratios of one run: python -m tests.benchmarks.decoder

Chunked cross-entropy against whole logits: time of a training step (forward and backward), and the largest tensor that
the loss makes. Causal attention without a mask against the segment mask. Selective and full recomputation against none:
time, and what autograd holds between the passes. With --compile: a compiled step (warm). Each variant of the model
against the plain one. Medians of interleaved runs, one thread.
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
from ptool.models.execution import Execution
from ptool.models.loss import chunk_tokens

VARIANTS: dict[str, dict[str, object]] = {
    "LayerNorm": {"norm": "layer"},
    "post-norm": {"norm_position": "post"},
    "learned positions": {"positions": "learned"},
    "GELU": {"feed_forward": "gelu", "ffn_hidden": None},
    "QK-norm": {"qk_norm": True},
    "z-loss": {"z_loss": 1e-4},
    "multi-query": {"kv_heads": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="10m")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile too: needs a C++ compiler, takes a minute")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = msgspec.structs.replace(load_size(given.model).model, vocab_size=given.vocab_size)
    decoder = Decoder(config)
    shape = (given.rows, config.max_seq_len)
    tokens = torch.randint(config.vocab_size, shape)
    positions = torch.arange(shape[1]).expand(shape)
    one = torch.zeros(shape, dtype=torch.int32)
    four = (torch.arange(shape[1], dtype=torch.int32) * 4 // shape[1]).expand(shape)

    def step(model: Decoder, segments: torch.Tensor = one) -> None:
        model.zero_grad()
        model(tokens, positions, segments, tokens)[0].backward()

    def whole() -> None:
        decoder.zero_grad()
        logits = decoder.logits(tokens, positions, one).flatten(0, 1)
        F.cross_entropy(logits, tokens.flatten(), reduction="sum").backward()

    def held(model: Decoder) -> int:
        """Bytes that autograd keeps between the passes, parameters not counted."""
        kept: dict[int, int] = {}
        owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in owned:
                kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
            return tensor

        alive: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(tokens, positions, one, tokens)
        return sum(kept.values())

    selective = Decoder(config, execution=Execution(recompute="selective"))
    full = Decoder(config, execution=Execution(recompute="full"))
    steps: dict[str, Callable[[], None]] = {
        "plain": lambda: step(decoder),
        "whole logits": whole,
        "masked": lambda: step(decoder, four),
        "selective": lambda: step(selective),
        "full": lambda: step(full),
    }
    if given.compile:
        compiled = Decoder(config, execution=Execution(compile=True))
        steps["compiled"] = lambda: step(compiled)
    for name, change in VARIANTS.items():
        other = Decoder(msgspec.structs.replace(config, **change))
        steps[name] = lambda other=other: step(other)  # type: ignore[misc]
    times = interleaved(steps, given.repeats)
    num_tokens = tokens.numel()
    print(f"{given.model}, {config.num_parameters():,} parameters, {num_tokens:,} tokens a step, one thread")
    print(f"tokens/s                              {num_tokens / times['plain']:,.0f}")
    print(f"step, chunked loss / whole logits     {times['plain'] / times['whole logits']:.3f}")
    print(f"logits held, chunked / whole          {min(1, chunk_tokens(config.vocab_size) / num_tokens):.3f}")
    print(f"step, segment mask / causal alone     {times['masked'] / times['plain']:.3f}")
    for name in ("selective", "full", *(["compiled"] if given.compile else []), *VARIANTS):
        print(f"step, {name + ' / plain':<31} {times[name] / times['plain']:.3f}")
    print(f"held between the passes, full / none  {held(full) / held(decoder):.3f}")


def interleaved(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each (other programs' work does not count), run in turns after one turn of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if turn:
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
