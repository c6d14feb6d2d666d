"""Loss, perplexity and bits per byte of documents under a decoder.

Every token of a document's text is predicted exactly once, the first one from the end-of-document token (EOD), as
packing trains it. The EOD at a document's end is not scored, so that what is measured is the text and its bytes. A
document longer than the model's `max_seq_len` is read in windows without overlap: with s = EOD, t1, ... tn, window k
has the inputs s[kL : kL+L] and the targets s[kL+1 : kL+L+1], so a later window starts from the token that the one
before predicted last, and knows nothing older. Where rows were packed without an EOD no input stands before a first
token; it is charged ln(vocabulary), the code length of a uniform guess, so that bits per byte stays that of the text.

Windows of similar length are batched: a pool of them is sorted by length, cut into batches, padded at the end. Rows do
not see each other, so the result does not depend on the batch size beyond rounding, and sums are kept in fp64.
Cost: one forward pass per token, at most `POOL_BATCHES * batch_tokens` tokens waiting, one chunk of logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ptool.errors import InputError
from ptool.evaluation.scores import Tally
from ptool.models.decoder import Decoder
from ptool.reporting import SILENT, Reporter

POOL_BATCHES = 16  # enough windows to sort that little padding is left: under 5 % on lengths of real documents

Tokens = npt.NDArray[np.integer]


class Document(NamedTuple):
    """A document to score: `tokens` are those of its text alone, `num_bytes` its UTF-8 length, 0 where unknown."""

    id: str
    source: str | None
    num_bytes: int
    tokens: Tokens


def score_documents(
    decoder: Decoder,
    documents: Iterable[Document],
    *,
    eod_id: int | None,
    batch_tokens: int = 4_096,
    reporter: Reporter = SILENT,
    total_tokens: int | None = None,
) -> dict[str | None, Tally]:
    """The summed losses of `documents` per source, in the order in which the sources appear.

    `batch_tokens` bounds rows times length of one forward pass (one row at least); on a CPU 4,096 is faster than
    16,384 by 1.4, because activations stay in the cache. `total_tokens` is for progress
    only. Raises `InputError`, naming the document, for a token outside the vocabulary and for a loss that is not
    finite (weights that hold NaN): such a number is never averaged away.
    """
    tallies: dict[str | None, Tally] = {}
    pool: list[_Window] = []
    pooled = done = 0
    for document in documents:
        _check_vocabulary(document, decoder.config.vocab_size)
        tally = tallies.setdefault(document.source, Tally())
        guessed = math.log(decoder.config.vocab_size) if eod_id is None and len(document.tokens) else 0.0
        tally.add(
            Tally(
                num_documents=1,
                num_tokens=len(document.tokens),
                num_bytes=document.num_bytes if document.num_bytes or not len(document.tokens) else None,
                loss_sum=guessed,
            )
        )
        for window in _windows(document, tally, eod_id, decoder.config.max_seq_len):
            pool.append(window)
            pooled += len(window.sequence) - 1
            if pooled >= POOL_BATCHES * batch_tokens:
                _score_pool(decoder, pool, batch_tokens)
                done += pooled
                reporter.progress(done, total_tokens, unit="tokens")
                pool, pooled = [], 0
    _score_pool(decoder, pool, batch_tokens)
    reporter.progress(done + pooled, total_tokens, unit="tokens")
    return tallies


class _Window(NamedTuple):
    """Inputs `sequence[:-1]`, targets `sequence[1:]`; the loss goes to `tally`."""

    sequence: Tokens
    tally: Tally
    document: Document


def _windows(document: Document, tally: Tally, eod_id: int | None, max_len: int) -> Iterator[_Window]:
    before = [] if eod_id is None else [eod_id]
    sequence = np.concatenate([np.array(before, dtype=np.int64), document.tokens.astype(np.int64)])
    for first in range(0, len(sequence) - 1, max_len):
        yield _Window(sequence[first : first + max_len + 1], tally, document)


def _score_pool(decoder: Decoder, pool: list[_Window], batch_tokens: int) -> None:
    for batch in _batches(sorted(pool, key=lambda window: -len(window.sequence)), batch_tokens):
        for window, loss in zip(batch, _loss_sums(decoder, batch), strict=True):
            if not math.isfinite(loss):
                raise InputError(
                    f"the loss is {loss}: the weights hold numbers that are not finite, or overflow",
                    where=f"document {window.document.id}",
                    hint="evaluate an earlier checkpoint: --checkpoint STEP",
                )
            window.tally.loss_sum += loss


def _batches(windows: Sequence[_Window], batch_tokens: int) -> Iterator[Sequence[_Window]]:
    """Neighbours in descending length, as many as fit: the first one of a batch sets its width."""
    first = 0
    while first < len(windows):
        width = len(windows[first].sequence) - 1
        last = first + max(1, batch_tokens // width)
        yield windows[first:last]
        first = last


def _loss_sums(decoder: Decoder, batch: Sequence[_Window]) -> list[float]:
    """The loss of each window in nats, one forward pass."""
    rows, width = len(batch), len(batch[0].sequence) - 1
    tokens = np.zeros((rows, width), dtype=np.int64)
    targets = np.full((rows, width), -100, dtype=np.int64)
    segments = np.full((rows, width), -1, dtype=np.int32)
    for row, window in enumerate(batch):
        length = len(window.sequence) - 1
        tokens[row, :length] = window.sequence[:-1]
        targets[row, :length] = window.sequence[1:]
        segments[row, :length] = 0
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), (rows, width)).copy()
    device = decoder.embedding.weight.device
    losses: Tensor = decoder.token_losses(
        *(torch.from_numpy(array).to(device) for array in (tokens, positions, segments, targets))
    )
    sums: list[float] = losses.double().sum(dim=1).tolist()
    return sums


def _check_vocabulary(document: Document, vocab_size: int) -> None:
    if len(document.tokens) and not 0 <= int(document.tokens.min()) <= int(document.tokens.max()) < vocab_size:
        outside = int(document.tokens.max()) if int(document.tokens.min()) >= 0 else int(document.tokens.min())
        raise InputError(
            f"token {outside} is outside the model's vocabulary of {vocab_size:,}",
            where=f"document {document.id}",
            hint="the text must be tokenised with the tokenizer the model was trained with",
        )
