"""What the manual says beyond the commands: conventions in ptool(1), the stream and the manifest in section 5.

The text is in the markup of roff.py. Field lists are checked against the types: a field without a word here, or a word
without a field, is an error when the pages are made.
"""

from __future__ import annotations

import msgspec

from ptool.cli.commands import COMMANDS, PURPOSE
from ptool.formats.frames import FRAME_BYTES
from ptool.formats.manifests import SCHEMA, Counts, Documents, FileEntry, Manifest
from ptool.units import format_bytes

_OVERVIEW = """
NAME

ptool - {purpose}

SYNOPSIS

    ptool COMMAND [ARGUMENT...]
    ptool COMMAND --help
    ptool --help | --version

DESCRIPTION

Each command does one thing to a stream of documents or to a folder, and they are joined by pipes. Documents are
JSON lines; ptool-stream(5) says what they look like between commands. Folders carry a manifest, which
ptool-manifest(5) describes. A folder command prints one line on stdout that names its folder, and takes such a line
on stdin, so that a whole run from text to a trained and evaluated model is one pipe.

Standard output carries the product and nothing else; notices, progress and tables for people go to standard error.
`-` or no path is standard input or output. Binary data is not written to a terminal, and a command that waits for a
stream does not wait for a person to type it.

COMMANDS

{commands}

COMMON OPTIONS

{common}

NUMBERS

Counts are `70e9`, `70B`, `7.5b`, `2T`, `1_000_000`; K, M, B and T are powers of 1000. Sizes need a unit: `40GB` is
40 x 1000^3 bytes, `40GiB` is 40 x 1024^3. Durations are `90s`, `15m`, `2h`, `3d4h`. Shares are `0.5%` or `0.005`. A
band is `LOW:MID:HIGH`, or one value for all three. nan, inf, negative numbers and overflow are refused.

FILES THAT ARE THERE

An output is written under a temporary name in the same folder and renamed when it is whole: a process that is
killed at any moment leaves the old file or none. An output that exists is left alone: when it is complete and comes
from the same inputs, configuration and version, the command says that it is up to date and exits 0; when it is the
unfinished work of the same command, the command goes on with what is missing; anything else is refused with exit
status 2 unless `--force` is given.

EXIT STATUS

These do not change between versions.

0 :: Done; also when the output was there and up to date.
1 :: Failed: what was read is damaged or missing, or what was to be written could not be. One line on standard error
says what happened, where, and what to type next.
2 :: The call is wrong: an unknown command, option, name or key, or an output that exists. Nothing was read or
written.
3 :: Finished, but more records were rejected than `--max-errors` allows.
4 :: A check that was asked for failed.
75 :: Stopped and saved: the same command goes on from there. Schedulers can requeue on it.
128+N :: Ended by signal N. 130 is Ctrl-C, 141 a reader that closed the pipe: the output is then not complete.

SIGNALS

SIGINT, SIGTERM and SIGHUP are answered by one line at once; workers are stopped, temporary files removed, and the
signal is raised again. A second one ends the process immediately. SIGUSR1 prints progress. `train` and `resume`
differ: SIGINT, SIGTERM and SIGUSR1 mean save a checkpoint and exit with status 75.

ENVIRONMENT

A flag wins over a variable, a variable over a configuration file, a file over the default.

PTOOL_COMMAND_OPTION :: The value of an option that is not given: `PTOOL_PACK_SEQ_LEN` stands for `ptool pack
--seq-len`. Hyphens are underscores.
{variables}
NO_COLOR :: When set, no colour on any terminal.
TERM :: When `dumb` or unset, no colour and no moving progress.
SLURM_CPUS_PER_TASK :: Bounds the default number of workers, as CPU affinity and cgroup limits do.
SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_COUNT :: Read by `--shard slurm`.

EXAMPLES

    ptool demo
    ptool filter crawl/*.jsonl.zst | ptool dedup | ptool tokenize --tokenizer tok.model -o tok/ \\
      | ptool pack --seq-len 2048 -o packed/ | ptool train --model 10m -o runs/a | ptool eval
    source completions/ptool.bash

SEE ALSO

{pages}
"""

_STREAM = """
NAME

ptool-stream - documents on disk and in pipes

DESCRIPTION

A document is one JSON object on one line, in UTF-8. Text stages need the field `text`, a string. `id` is a string
that names the document; `source` names the domain it comes from, for mixing and for reports by domain.
`--text-key`, `--id-key` and `--source-key` name other fields for these. Every other field is the user's, and passes
through untouched: a document that is kept is written as the same bytes that were read.

A document without an id gets one from the first ptool command that writes it: `"id":"<file name>#<line number>",`
is inserted after the opening brace and nothing else changes. From standard input the file name is `-`; where two
inputs have the same file name, enough of the path is used to tell them apart. Ids need not be unique.

A stream is a plain Zstandard file, usually named `.jsonl.zst`, that `zstdcat`, `zstd -t` and `cat a.zst b.zst` can
work with:

    [header frame]  [data frame]...[data frame]  [trailer frame]

FRAMES

Data frames hold whole lines, about {frame_bytes} of them before compression; a longer line has a frame of its own.
Each frame carries its content size and a checksum, so a cut is always noticed and a file can be read in parallel.

Header and trailer are skippable frames (RFC 8878, 3.1.2; magic number 0x184D2A5D), which other tools pass over.
Their payload is a tag with a checksum (xxh3-64 of the JSON, in hexadecimal), and one line of JSON:

    ptool-header/1 <checksum>
    {{"format":"ptool-stream/1","stage":"filter","trailer":true,"version":"..."}}

    ptool-trailer/1 <checksum>
    {{"schema":"{schema}","stage":"filter",...}}

The trailer's JSON is the manifest of the stage that wrote the stream, see ptool-manifest(5). Eight more bytes
follow in its frame, the length of the whole frame as a little-endian 32-bit number and `PTLR`, so that it can be
found from the end of a file. The header announces the trailer and is written before anything is read: a stream that
has the one and not the other comes from a command that died.

ACCEPTED INPUT

Zstandard, gzip and plain JSON lines by anyone, told apart by their first bytes and never by their name; several
frames or members in a row are one stream. What `zstd -t` or `gzip -t` would report is an error here too. Where a
foreign tool stands between two ptool commands, the chain of manifests starts anew.

Output is Zstandard unless its name ends in `.jsonl` or `--compress none` is given; then it is plain lines without
frames.

DAMAGE

For a ptool stream that was cut anywhere, or in which any bit was flipped, a command ends with one clear line and
exit status 1, or reads exactly the documents that were written. No output then stands under its name, and what went
into a pipe has no trailer, so the next command fails too, even in a shell without `pipefail`. An input of 0 bytes
is an error unless `--allow-empty` is given.

A line that is not a document (no JSON object, no text, invalid UTF-8, a lone surrogate) stops the command with the
file and the line number. With `--on-error reject` it is set aside and counted instead.

REJECTS

`--rejects FILE` writes a stream of what was not kept. The line of a dropped document gets a field `ptool` after its
opening brace that says which stage dropped it and why, so `jq 'del(.ptool)'` gives the document back. A line that
was no document is wrapped whole, as `raw`, or `raw_base64` where it is not UTF-8:

    {{"ptool":{{"stage":"filter","rule":"word-count","value":12.0,"accept":[50.0,100000.0]}},"id":"...","text":"..."}}
    {{"ptool":{{"stage":"filter","reason":"...","file":"a.jsonl","line":7}},"raw":"..."}}

For every stage, documents read are documents kept, dropped and rejected.

EXAMPLES

    zstdcat clean.jsonl.zst | jq -r .text | head
    cat a.jsonl.zst b.jsonl.zst | ptool dedup -o unique.jsonl.zst
    ptool filter crawl.jsonl.gz --compress none | jq -c 'select(.source == "web")' | ptool dedup -o web.jsonl.zst

SEE ALSO

ptool(1), ptool-filter(1), ptool-dedup(1), ptool-manifest(5)
"""

_MANIFEST = """
NAME

ptool-manifest - what ran, on what, and what came out

DESCRIPTION

Every output carries a manifest: in the trailer of a stream, see ptool-stream(5), and as `manifest.json` in a
folder. It holds only what determines the bytes of the output, so the same work has the same manifest: no times,
hosts or absolute paths. Those are in `FILE.run.json` beside a stream and in `run.json` in a folder, outside every
digest.

In a folder the manifest is written last, by rename. A folder without one is not finished, and no command reads it;
only a run of `ptool train` can be read from its first verified checkpoint on. A manifest does not make a folder
trustworthy: a folder brings its own.

It is JSON with sorted keys, encoded in one way. Fields that say nothing are left out.

FIELDS

{manifest}

COUNTS

`read` is always the sum of `kept`, `dropped` and `rejected`; a manifest for which it is not cannot be made or read.

{counts}

DOCUMENTS

{documents}

FILES

{files}

FOLDERS IN PIPES

A command that writes a folder prints one line, and takes such a line on standard input, a folder, or the path of a
manifest:

    {{"artefact": "<absolute path>", "manifest": {{...}}}}

EXAMPLES

    jq '.counts' tok/manifest.json
    jq '[.. | .stage? // empty]' packed/manifest.json
    ptool pack tok/ --seq-len 2048 -o packed/ | jq .manifest.num_tokens

SEE ALSO

ptool(1), ptool-stream(5)
"""

_FIELDS: dict[type[msgspec.Struct], dict[str, str]] = {
    Manifest: {
        "schema": f"`{SCHEMA}`.",
        "stage": "The command: `filter`, `pack`.",
        "version": "The version of ptool.",
        "config": "Every setting that changes the output, resolved; no output names, no number of workers.",
        "counts": "What became of the documents.",
        "documents_in": "The documents read.",
        "documents_out": "The documents written.",
        "num_documents": "Documents in the output.",
        "num_tokens": "Tokens in the output.",
        "num_bytes": "Bytes in the output; of text, where the stage reads text.",
        "details": "What only this stage knows.",
        "files": "The files of a folder.",
        "upstream": "The manifests of the stages before, nearest first; more than 64 streams of the same work are one, "
        "with their sums, and in details how many they are (merged).",
    },
    Counts: {
        "read": "Documents that came in.",
        "kept": "Documents that went out.",
        "dropped": "Documents that a rule or a twin ruled out.",
        "rejected": "Lines that were no documents.",
        "dropped_by": "Dropped documents by the name of the rule.",
    },
    Documents: {
        "digest": "`xxh3-128:` and the hash of the uncompressed lines with their newlines.",
        "num_documents": "How many.",
        "num_bytes": "Bytes of these lines.",
    },
    FileEntry: {
        "path": "Relative to the folder; it cannot leave it.",
        "size": "In bytes.",
        "digest": "`sha256:` and the hash of the file.",
    },
}


def overview_page(*, common: str, variables: str) -> str:
    """The text of ptool(1); `common` and `variables` are definitions in the markup of roff.py."""
    return _OVERVIEW.format(
        purpose=PURPOSE,
        commands="\n".join(f"ptool {command.name} :: {command.summary}" for command in COMMANDS.values()),
        common=common,
        variables=variables,
        pages=", ".join([*(f"ptool-{name}(1)" for name in sorted(COMMANDS)), "ptool-stream(5)", "ptool-manifest(5)"]),
    )


def stream_page() -> str:
    """The text of ptool-stream(5)."""
    return _STREAM.format(frame_bytes=format_bytes(FRAME_BYTES), schema=SCHEMA)


def manifest_page() -> str:
    """The text of ptool-manifest(5)."""
    return _MANIFEST.format(
        manifest=_fields(Manifest), counts=_fields(Counts), documents=_fields(Documents), files=_fields(FileEntry)
    )


def _fields(kind: type[msgspec.Struct]) -> str:
    """Definitions of a type's fields in their order. KeyError: a field without one; ValueError: a stray one."""
    described = _FIELDS[kind]
    names = [field.name for field in msgspec.structs.fields(kind)]
    if stray := set(described) - set(names):
        raise ValueError(f"{kind.__name__} has no field {', '.join(sorted(stray))}")
    return "\n".join(f"{name} :: {described[name]}" for name in names)
