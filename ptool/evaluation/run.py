"""`ptool eval` as a function: a run folder in, scores per source out; nothing is written.

The newest checkpoint that verifies (or the one of a step) becomes a decoder; what it is scored on is settled by
provenance.py, read by sources.py, and scored by perplexity.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.evaluation.perplexity import score_documents
from ptool.evaluation.provenance import packed_data, run_tokenizer
from ptool.evaluation.report import EvalReport
from ptool.evaluation.scores import Tally
from ptool.evaluation.sources import HeldOut, Streamed
from ptool.formats.checkpoints import Checkpoint, checkpoint_at
from ptool.formats.documents import NO_SOURCE
from ptool.models.config import ModelConfig
from ptool.models.decoder import Decoder
from ptool.models.weights import load_weights
from ptool.reporting import SILENT, Reporter
from ptool.text.batch import Keys


class EvalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to evaluate and how.

    `checkpoint` is a step (default: the newest that verifies), `packed` the packed folder where it is no longer at the
    path the run was trained from, `keys` the field names of a stream. `batch_tokens` bounds the memory of a forward
    pass and does not change the result beyond rounding.
    """

    checkpoint: int | None = None
    packed: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_tokens: int = 4_096
    keys: Keys = Keys()


def evaluate(
    run: Path, stream: str | Path | None = None, *, config: EvalConfig | None = None, reporter: Reporter = SILENT
) -> EvalReport:
    """Score a run's checkpoint on `stream` ("-" is stdin), or on the held-out documents of its packed data.

    Raises `InputError` for a run without a verified checkpoint, for packed data or a tokenizer that is missing or not
    the run's, and for what the scoring itself refuses (perplexity.py); `UsageError` for a device that is not there.
    """
    config = config or EvalConfig()
    if config.batch_tokens < 1:
        raise UsageError("--batch-tokens must be at least 1")
    checkpoint = checkpoint_at(run, config.checkpoint, reporter=reporter)
    documents: HeldOut | Streamed
    if stream is None:
        packed = packed_data(run, checkpoint, config.packed, reporter)
        documents, eod_id = HeldOut(packed), packed[0].eod_id
    else:
        tokenizer, eod_id = run_tokenizer(run, checkpoint, config.packed)
        documents = Streamed(stream, tokenizer, keys=config.keys, reporter=reporter)
    decoder = _decoder(checkpoint, config.device)
    tallies = score_documents(
        decoder,
        documents,
        eod_id=eod_id,
        batch_tokens=config.batch_tokens,
        reporter=reporter if stream is None else SILENT,  # a stream's reader says how far it is, in bytes
        total_tokens=documents.total_tokens,
    )
    if not tallies:
        raise InputError("there is no document to evaluate", where=str(stream or run))
    total = Tally()
    named: dict[str, Tally] = {}
    for source, tally in tallies.items():
        total.add(tally)
        named.setdefault(source or NO_SOURCE, Tally()).add(tally)
    return EvalReport(
        step=checkpoint.step,
        trained_tokens=checkpoint.tokens,
        data="holdout" if stream is None else "stream",
        digest=documents.digest,
        window=decoder.config.max_seq_len,
        total=total.score(),
        sources={name: named[name].score() for name in sorted(named)},
    )


def _decoder(checkpoint: Checkpoint, device: str) -> Decoder:
    import torch

    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise UsageError("--device cuda: no GPU is visible here", hint="--device cpu")
    table = checkpoint.manifest.config.get("model")
    try:
        shape = ModelConfig.from_table(table if isinstance(table, dict) else {})
    except UsageError as error:
        message = f"the manifest does not say the model's shape: {error}"
        raise DamagedInput(message, where=str(checkpoint.path)) from error
    decoder = load_weights(checkpoint.weights, shape)
    decoder.to("cpu" if device == "cpu" or not has_gpu else "cuda")
    return decoder
