"""The tokens to pack and their documents: a `tokenize` folder, or one pair of Megatron's own files.

Tokens stay on disk, memory-mapped; positions are numbers in the concatenation of all shards, 64-bit throughout. What a
foreign pair does not say is made up for: documents are named by their number, their hash is that of their tokens, their
bytes are counted by decoding, and the EOD is the tokenizer's where every document ends in it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.formats.artefacts import check_files, file_digest, open_artefact
from ptool.formats.documents import DocumentTable, Records, new_records
from ptool.formats.manifests import Manifest, manifest_digest
from ptool.formats.shards import Shard, TokenShards, token_dtype
from ptool.tokenizers.loading import load_tokenizer

Integers = npt.NDArray[np.int64]


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens are ids of."""

    vocab_size: int
    eod_id: int | None
    pad_id: int | None
    file: Path
    artefact_name: str
    fingerprint: str

    @property
    def dtype(self) -> str:
        """The type rows are stored in."""
        return token_dtype(self.vocab_size)

    @property
    def padding(self) -> int:
        """The id at the ends of rows: any will do, since padding is attended to by nothing and has no target."""
        return next(token for token in (self.pad_id, self.eod_id, 0) if token is not None)


class Check:
    """Comparing the files of an artefact with their digests, meanwhile."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._failures: list[BaseException] = []

        def work() -> None:
            try:
                check_files(folder, manifest, verify=True)
            except BaseException as error:  # noqa: BLE001 - raised again by `result`
                self._failures.append(error)

        # A daemon: a run that is interrupted does not wait for it.
        self._thread = threading.Thread(target=work, name="check", daemon=True)
        self._thread.start()

    def result(self) -> None:
        """Wait, and raise what was found."""
        self._thread.join()
        if self._failures:
            raise self._failures[0]


class TokenSource:
    """Tokens of all shards by position, and a record of every document.

    records     RECORD[num_documents]
    starts      int64[num_documents], the position of each document's first token
    identity    what tells this input from others; stands in the configuration of what is made from it
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        records: Records,
        vocabulary: Vocabulary,
        *,
        identity: dict[str, Any],
        tables: Sequence[DocumentTable] = (),
        names: Sequence[str] = (),
        sources: Sequence[str] = (),
        upstream: Sequence[Manifest] = (),
        check: Check | None = None,
    ) -> None:
        """Ids of documents come from their `tables`, or are the `names`."""
        sizes = np.array([len(shard.tokens) for shard in shards], dtype=np.int64)
        self._bases = np.cumsum(sizes) - sizes
        self._tokens = [shard.tokens for shard in shards]
        self._tables = tables
        self._names = names
        starts = [shard.starts[:-1] + base for shard, base in zip(shards, self._bases.tolist(), strict=True)]
        self.starts: Integers = np.concatenate([np.empty(0, dtype=np.int64), *starts])
        self.records = records
        self.vocabulary = vocabulary
        self.identity = identity
        self.sources = list(sources)
        self.upstream = list(upstream)
        self._check = check

    def confirm(self) -> None:
        """Wait until every file was compared with its digest. Raises DamagedInput; nothing may be published before."""
        if self._check is not None:
            self._check.result()

    def copy(self, into: npt.NDArray[Any], at: Integers, positions: Integers, lengths: Integers) -> None:
        """into[at : at + length] = tokens from each position on. A span lies in one shard, as documents do."""
        if not len(at):
            return
        shard_of = np.searchsorted(self._bases, positions, side="right") - 1
        # Neighbours here that are neighbours there are one piece: nearly all of them when documents keep their order.
        joined = (np.diff(positions) == lengths[:-1]) & (np.diff(at) == lengths[:-1]) & (np.diff(shard_of) == 0)
        firsts = np.concatenate([np.zeros(1, dtype=np.int64), np.flatnonzero(~joined) + 1])
        totals = np.add.reduceat(lengths, firsts)
        offsets = positions - self._bases[shard_of]
        for start, offset, length, shard in zip(
            at[firsts].tolist(), offsets[firsts].tolist(), totals.tolist(), shard_of[firsts].tolist(), strict=True
        ):
            into[start : start + length] = self._tokens[shard][offset : offset + length]

    def take(self, positions: Integers) -> Integers:
        """The tokens at some positions."""
        found = np.empty(len(positions), dtype=np.int64)
        shard_of = np.searchsorted(self._bases, positions, side="right") - 1
        for shard in np.unique(shard_of):
            here = shard_of == shard
            found[here] = self._tokens[shard][positions[here] - self._bases[shard]]
        return found

    def ids(self, chosen: Integers) -> tuple[Integers, bytes]:
        """UTF-8 lengths of the ids of documents `chosen` (numbers, repeats allowed), and the ids one after another."""
        if not self._tables:
            encoded = [self._names[document].encode() for document in chosen.tolist()]
            return np.array([len(name) for name in encoded], dtype=np.int64), b"".join(encoded)
        raw: list[npt.NDArray[np.uint8]] = [np.empty(0, dtype=np.uint8)]
        sizes: list[Integers] = [np.empty(0, dtype=np.int64)]
        for table in self._tables:
            sizes.append(np.diff(table.records["id_end"], prepend=0))
            raw.append(np.frombuffer(table.raw_ids(0, int(sizes[-1].sum())), dtype=np.uint8))
        everything, all_sizes = np.concatenate(raw), np.concatenate(sizes)
        lengths = all_sizes[chosen]
        if len(chosen) and bool((np.diff(chosen) > 0).all()):  # in order, as nearly always: a mask is quicker
            taken = np.zeros(len(all_sizes), dtype=bool)
            taken[chosen] = True
            return lengths, everything[np.repeat(taken, all_sizes)].tobytes()
        starts = (np.cumsum(all_sizes) - all_sizes)[chosen]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return lengths, everything[np.repeat(starts, lengths) + within].tobytes()


def open_source(path: Path, tokenizer: Path | None = None) -> TokenSource:
    """A token folder, or Megatron files by their prefix, `.bin` or `.idx`, which need the `tokenizer` that made them.

    Every file is compared with the digest that its manifest has, in a thread of its own, so that it is read from the
    disk once: a shard that is cut or altered is refused, with DamagedInput, here or by `confirm`.
    """
    return _open_folder(path, tokenizer) if path.is_dir() else _open_foreign(path, tokenizer)


def is_megatron(path: Path) -> bool:
    """Whether a path means a pair of Megatron's files."""
    return path.suffix in (".bin", ".idx") or path.with_name(path.name + ".idx").is_file()


def _open_folder(folder: Path, tokenizer: Path | None) -> TokenSource:
    manifest = open_artefact(folder, stage="tokenize")
    check = Check(folder, manifest)
    try:
        details = msgspec.convert(manifest.details, _Details)
    except msgspec.ValidationError as error:
        raise DamagedInput(f"the manifest describes no token shards: {error}", where=str(folder)) from error
    if tokenizer is not None and file_digest(tokenizer) != details.tokenizer.fingerprint:
        message = "these tokens were made with another tokenizer, which is in the folder"
        raise UsageError(message, where=str(tokenizer), hint="leave --tokenizer out")
    opened = TokenShards(folder, [shard["name"] for shard in details.shards])
    return TokenSource(
        opened.shards,
        np.concatenate([new_records(0), *(table.records for table in opened.tables)]),
        Vocabulary(
            vocab_size=details.vocab_size,
            eod_id=details.eod_id,
            pad_id=details.pad_id,
            file=folder / details.tokenizer.file,
            artefact_name=details.tokenizer.file,
            fingerprint=details.tokenizer.fingerprint,
        ),
        identity={"tokens": manifest_digest(manifest)},
        tables=opened.tables,
        sources=details.sources,
        upstream=[manifest],
        check=check,
    )


class _TokenizerDetails(msgspec.Struct):
    file: str
    fingerprint: str


class _Details(msgspec.Struct):
    """What `tokenize` writes into its manifest."""

    vocab_size: int
    eod_id: int | None
    pad_id: int | None
    tokenizer: _TokenizerDetails
    shards: list[dict[str, Any]]
    sources: list[str]


def _open_foreign(path: Path, tokenizer: Path | None) -> TokenSource:
    prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    if tokenizer is None:
        message = "Megatron's files do not say which tokenizer made them"
        raise UsageError(message, where=str(path), hint="--tokenizer FILE")
    loaded = load_tokenizer(tokenizer)
    shard = Shard(prefix)
    if len(shard.tokens) and (int(shard.tokens.min()) < 0 or int(shard.tokens.max()) >= loaded.vocab_size):
        message = f"tokens up to {int(shard.tokens.max())}, and the tokenizer has {loaded.vocab_size}"
        raise InputError(message, where=str(path), hint="give the tokenizer that made them")
    records = new_records(shard.num_documents)
    records["num_tokens"] = np.diff(shard.starts)
    for document in range(shard.num_documents):
        tokens = shard.tokens[shard.starts[document] : shard.starts[document + 1]].astype("<i4")
        records["text_hash"][document] = xxhash.xxh3_64_intdigest(tokens.tobytes())
        records["num_bytes"][document] = len(loaded.decode(tokens).encode("utf-8", "surrogatepass"))
    ends = shard.starts[1:][np.diff(shard.starts) > 0] - 1
    all_end = loaded.eos_id is not None and len(ends) > 0 and bool((shard.tokens[ends] == loaded.eos_id).all())
    return TokenSource(
        [shard],
        records,
        Vocabulary(
            vocab_size=loaded.vocab_size,
            eod_id=loaded.eos_id if all_end else None,
            pad_id=loaded.pad_id,
            file=tokenizer,
            artefact_name=loaded.artefact_name,
            fingerprint=loaded.fingerprint,
        ),
        identity={
            "bin": file_digest(prefix.with_name(prefix.name + ".bin")),
            "idx": file_digest(prefix.with_name(prefix.name + ".idx")),
            "tokenizer": loaded.fingerprint,
        },
        names=[f"{prefix.name}#{number}" for number in range(1, shard.num_documents + 1)],
    )
