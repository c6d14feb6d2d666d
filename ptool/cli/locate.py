"""`ptool locate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ptool.cli.output import current
from ptool.packing.locating import locate_row
from ptool.units import parse_count


def locate(
    packed: Annotated[Path, typer.Argument(metavar="PACKED", help="A folder of ptool pack.")],
    row: Annotated[int, typer.Argument(parser=parse_count, metavar="ROW", help="The row's number, from 0.")],
    split: Annotated[Literal["train", "holdout"], typer.Option(help="Which rows are meant.")] = "train",
    text: Annotated[bool, typer.Option("--text", help="Show the text of every piece.")] = False,
) -> None:
    """Name the documents of a packed row.

    For every piece of the row: the document's id and source, the columns it takes, and where in the document it begins,
    in tokens; with --text also what it says. So a row that a loss spike names leads to its documents.

    Examples:
        ptool locate packed/ 1234
        ptool locate packed/ 0 --split holdout --text
        ptool locate packed/ 1234 --json | jq -r .pieces[].id
    """
    out = current()
    found = locate_row(packed, row, split=split, text=text)
    if out.json_mode:
        out.json({"row": row, "split": split, "pieces": found})
        return
    header = ("document", "source", "columns", "tokens", "from token", *(["text"] if text else []))
    rows = [
        (
            piece.id,
            piece.source or "-",
            f"{piece.start}-{piece.start + piece.length - 1}",
            f"{piece.length:,}",
            f"{piece.offset:,}",
            *([repr(piece.text)] if text else []),
        )
        for piece in found
    ]
    out.table(header, rows, descriptor=1)
