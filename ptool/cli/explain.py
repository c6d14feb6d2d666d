"""`ptool explain`: what happened to one document, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from ptool.cli import options as opt
from ptool.cli.output import current


def explain(
    identity: Annotated[str, typer.Argument(metavar="DOC_ID", help="The document's id.")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH]...", help="Streams, rejects, tok/, packed/ or run folders; none or - is stdin."),
    ] = None,
    id_key: opt.IdKey = "id",
) -> None:
    """Say what happened to one document, and why.

    Looks for the document in every path: in a stream it is there, in a rejects file it was dropped, and the rule, the
    value and the accepted range are shown (with --explain-all of ptool filter, every rule that it failed); of a twin
    that ptool dedup dropped, the document it repeats and the similarity. tok/ and packed/ folders know which document
    it is in them and its tokens; a run folder leads to the packed folders that it was trained on.

    The manifests of the paths name the stages before. A stage that dropped documents and whose rejects are not among
    the paths is named, since the document may have ended there. Without a sighting the exit code is 1.

    Examples:
        ptool explain crawl.jsonl#17 clean.jsonl.zst dropped.jsonl.zst
        ptool explain doc-42 dropped.jsonl.zst twins.jsonl.zst tok/ packed/ --json
        zstdcat dropped.jsonl.zst | ptool explain doc-42
    """
    from ptool.errors import InputError
    from ptool.filtering.explaining import explain as look_for
    from ptool.filtering.explaining import explanation_rows
    from ptool.text.batch import Keys

    out = current()
    found = look_for(identity, opt.stream_inputs(paths), keys=Keys(id=id_key), reporter=out.reporter)
    out.finish_progress()
    if out.json_mode:
        out.json(found)
    elif found.sightings:
        out.table(["where", "what", "why"], explanation_rows(found), descriptor=1)
    for unseen in found.unseen:
        out.notice(unseen)
    if not found.sightings:
        raise InputError(
            f"no document '{identity}' in what was given", hint="name the rejects of the stages before too"
        )
