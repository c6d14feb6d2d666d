"""The tokens to pack and their documents: `tokenize` folders, or pairs of Megatron's own files, one or several.

Tokens stay on disk, memory-mapped; positions are numbers in the concatenation of all shards, 64-bit throughout. What a
foreign pair does not say is made up for: documents are named by their number, their hash is that of their tokens, their
bytes are counted by decoding, and the EOD is the tokenizer's where every document ends in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from ptool.errors import DamagedInput, InputError, UsageError
from ptool.formats.artefacts import check_files, file_digest, open_artefact
from ptool.formats.documents import NO_SOURCE, Records, map_array, new_records
from ptool.formats.manifests import Manifest, manifest_digest
from ptool.formats.shards import Shard, TokenShards, token_dtype
from ptool.formats.streams import labels
from ptool.packing.mixing import DomainKind, Domains
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
    def meaning(self) -> tuple[str, int | None]:
        """What must be the same for tokens that lie in one row."""
        return self.fingerprint, self.eod_id

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


class Input(NamedTuple):
    """One folder, or one pair of Megatron's files."""

    name: str
    """As a mix over folders names it."""
    shards: list[Shard]
    records: Records
    ids: Callable[[], tuple[Integers, bytes]]
    """UTF-8 lengths of all ids, and the ids one after another."""
    keys: Callable[[str], npt.NDArray[np.uint64]]
    """For every document what stands for its value of a field, NO_KEY for none."""
    vocabulary: Vocabulary
    identity: dict[str, Any]
    sources: list[str]
    upstream: list[Manifest]
    check: Check | None


class TokenSource:
    """Tokens of all shards of all inputs by position, and a record of every document.

    records     RECORD[num_documents]
    starts      int64[num_documents], the position of each document's first token
    sources     names for the records' sources, of all inputs together
    identity    what tells this input from others; stands in the configuration of what is made from it
    """

    def __init__(self, inputs: Sequence[Input]) -> None:
        """Raises UsageError for inputs whose tokens are ids of different tokenizers."""
        self._inputs = inputs
        self.vocabulary = inputs[0].vocabulary
        for one in inputs[1:]:
            if one.vocabulary.meaning != self.vocabulary.meaning:
                message = f"the tokens of {inputs[0].name} and of {one.name} have different tokenizers or document ends"
                raise UsageError(message, hint="tokenize all with the same --tokenizer and --eod")
        shards = [shard for one in inputs for shard in one.shards]
        sizes = np.array([len(shard.tokens) for shard in shards], dtype=np.int64)
        self._bases = np.cumsum(sizes) - sizes
        # Without the subclass: numpy's memmap takes two microseconds for every slice.
        self._tokens = [np.asarray(shard.tokens) for shard in shards]
        starts = [shard.starts[:-1] + base for shard, base in zip(shards, self._bases.tolist(), strict=True)]
        self.starts: Integers = np.concatenate([np.empty(0, dtype=np.int64), *starts])
        self.sources = list(dict.fromkeys(name for one in inputs for name in one.sources if name != NO_SOURCE))
        self.records: Records = np.concatenate([new_records(0), *(self._with_our_sources(one) for one in inputs)])
        self.upstream = [manifest for one in inputs for manifest in one.upstream]
        self.identity: dict[str, Any] = (
            inputs[0].identity
            if len(inputs) == 1
            else {"inputs": [{"name": one.name, **one.identity} for one in inputs]}
        )

    def _with_our_sources(self, one: Input) -> Records:
        if one.sources == self.sources[: len(one.sources)]:
            return one.records
        records = one.records.copy()
        numbers = {name: number for number, name in enumerate(self.sources)}  # a source called "-" is none
        ours = np.array([numbers.get(name, -1) for name in one.sources] + [-1], dtype=np.int32)
        records["source"] = ours[records["source"]]
        return records

    def domains(self, by: DomainKind) -> Domains:
        """What mixes tell documents apart by: sources (NO_SOURCE for documents without one), or the inputs."""
        if by == "source":
            return Domains([NO_SOURCE, *self.sources], self.records["source"].astype(np.int64) + 1)
        sizes = [len(one.records) for one in self._inputs]
        return Domains([one.name for one in self._inputs], np.repeat(np.arange(len(sizes)), sizes))

    def keys(self, field: str) -> npt.NDArray[np.uint64]:
        """For every document what stands for its value of a field, NO_KEY for none.

        "source" is always there, others where `tokenize --group-key` kept them. Raises UsageError.
        """
        if field == "source":
            return (self.records["source"] + 1).astype(np.uint64)
        return np.concatenate([one.keys(field) for one in self._inputs])

    def confirm(self) -> None:
        """Wait until every file was compared with its digest. Raises DamagedInput; nothing may be published before."""
        for one in self._inputs:
            if one.check is not None:
                one.check.result()

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
        for number in np.unique(shard_of[firsts]).tolist():
            here = firsts[shard_of[firsts] == number]
            _copy(into, self._tokens[number], at[here], offsets[here], totals[shard_of[firsts] == number])

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
        columns = [one.ids() for one in self._inputs]
        all_sizes = np.concatenate([sizes for sizes, _ in columns])
        everything = np.frombuffer(b"".join([ids for _, ids in columns]), dtype=np.uint8)
        lengths = all_sizes[chosen]
        if len(chosen) and bool((np.diff(chosen) > 0).all()):  # in order, as nearly always: a mask is quicker
            taken = np.zeros(len(all_sizes), dtype=bool)
            taken[chosen] = True
            return lengths, everything[np.repeat(taken, all_sizes)].tobytes()
        starts = (np.cumsum(all_sizes) - all_sizes)[chosen]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return lengths, everything[np.repeat(starts, lengths) + within].tobytes()


def _copy(into: npt.NDArray[Any], tokens: npt.NDArray[Any], at: Integers, offsets: Integers, lengths: Integers) -> None:
    """into[at : at + length] = tokens[offset : offset + length] for many pieces."""
    if into.dtype != tokens.dtype:
        for start, offset, length in zip(at.tolist(), offsets.tolist(), lengths.tolist(), strict=True):
            into[start : start + length] = tokens[offset : offset + length]
        return
    # As bytes, since slices of a memoryview take a tenth of the time of slices of arrays.
    width = into.itemsize
    target, source = into.view(np.uint8).data, tokens.view(np.uint8).data
    pieces = zip((at * width).tolist(), (offsets * width).tolist(), (lengths * width).tolist(), strict=True)
    for start, offset, length in pieces:
        target[start : start + length] = source[offset : offset + length]


def open_source(paths: Path | Sequence[Path], tokenizer: Path | None = None) -> TokenSource:
    """Token folders, or Megatron files by their prefix, `.bin` or `.idx`, which need the `tokenizer` that made them.

    Every file is compared with the digest that its manifest has, in a thread of its own, so that it is read from the
    disk once: a shard that is cut or altered is refused, with DamagedInput, here or by `confirm`.
    """
    given = [paths] if isinstance(paths, Path) else list(paths)
    if len({path.resolve() for path in given}) < len(given):
        raise UsageError("an input is given twice", hint="a mix repeats what is too small by itself")
    names = labels([str(path.resolve()) for path in given])
    return TokenSource(
        [
            _open_folder(path, name, tokenizer) if path.is_dir() else _open_foreign(path, name, tokenizer)
            for path, name in zip(given, names, strict=True)
        ]
    )


def is_megatron(path: Path) -> bool:
    """Whether a path means a pair of Megatron's files."""
    return path.suffix in (".bin", ".idx") or path.with_name(path.name + ".idx").is_file()


def _open_folder(folder: Path, name: str, tokenizer: Path | None) -> Input:
    manifest = open_artefact(folder, stage="tokenize")
    check = Check(folder, manifest)
    try:
        details = msgspec.convert(manifest.details, _Details)
    except msgspec.ValidationError as error:
        raise DamagedInput(f"the manifest describes no token shards: {error}", where=str(folder)) from error
    if tokenizer is not None and file_digest(tokenizer) != details.tokenizer.fingerprint:
        message = "these tokens were made with another tokenizer, which is in the folder"
        raise UsageError(message, where=str(tokenizer), hint="leave --tokenizer out")
    shard_names = [shard["name"] for shard in details.shards]
    opened = TokenShards(folder, shard_names)

    def ids() -> tuple[Integers, bytes]:
        sizes = [np.diff(table.records["id_end"], prepend=0) for table in opened.tables]
        raw = [table.raw_ids(0, int(one.sum())) for table, one in zip(opened.tables, sizes, strict=True)]
        return np.concatenate([np.empty(0, dtype=np.int64), *sizes]), b"".join(raw)

    def keys(field: str) -> npt.NDArray[np.uint64]:
        if field not in details.group_keys:
            kept = ", ".join(["source", *details.group_keys])
            message = f"documents cannot be grouped by {field!r}: the token folder has {kept}"
            raise UsageError(message, where=str(folder), hint=f"ptool tokenize --group-key {field} keeps it")
        column, width = details.group_keys.index(field), len(details.group_keys)
        found = [
            map_array(folder / f"{one}.keys", np.dtype("<u8")).reshape(-1, width)[:, column] for one in shard_names
        ]
        return np.concatenate([np.empty(0, dtype=np.uint64), *found])

    return Input(
        name=name,
        shards=opened.shards,
        records=np.concatenate([new_records(0), *(table.records for table in opened.tables)]),
        ids=ids,
        keys=keys,
        vocabulary=Vocabulary(
            vocab_size=details.vocab_size,
            eod_id=details.eod_id,
            pad_id=details.pad_id,
            file=folder / details.tokenizer.file,
            artefact_name=details.tokenizer.file,
            fingerprint=details.tokenizer.fingerprint,
        ),
        identity={"tokens": manifest_digest(manifest)},
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
    group_keys: list[str] = []


def _open_foreign(path: Path, name: str, tokenizer: Path | None) -> Input:
    prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    if tokenizer is None:
        raise UsageError("Megatron's files do not say which tokenizer it was", where=str(path), hint="--tokenizer FILE")
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
    encoded = [f"{prefix.name}#{number}".encode() for number in range(1, shard.num_documents + 1)]

    def keys(field: str) -> npt.NDArray[np.uint64]:
        message = f"documents of Megatron's own files have no field {field!r}"
        raise UsageError(message, where=str(path), hint="tokenize with ptool")

    return Input(
        name=name,
        shards=[shard],
        records=records,
        ids=lambda: (np.array([len(one) for one in encoded], dtype=np.int64), b"".join(encoded)),
        keys=keys,
        vocabulary=Vocabulary(
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
        sources=[],
        upstream=[],
        check=None,
    )
