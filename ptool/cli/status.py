"""`ptool status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ptool.cli import output


def status(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An output folder of a ptool command.")],
) -> None:
    """List what an output folder still lacks.

    Prints how many outputs are there and which are not, and the array tasks that would make the missing ones, as
    `sbatch --array` takes them. The exit code is 75 while anything is missing, and 0 when the folder is complete.

    Examples:
        ptool status clean/
        sbatch --array=$(ptool status clean/ --json | jq -r .array) filter.sbatch
        ptool status clean/ | tail -n 1
    """
    from ptool.errors import StoppedAndSaved
    from ptool.formats.folders import folder_status

    found = folder_status(folder)
    out = output.current()
    if out.json_mode:
        out.json({"stage": found.stage, "complete": found.complete, "missing": found.missing, "array": found.array})
    else:
        lines = [
            f"{len(found.complete)} of {len(found.complete) + len(found.missing)} outputs of {found.stage} are there"
        ]
        lines += [f"missing {name}" for name in found.missing]
        out.text("\n".join(lines + ([f"--array={found.array}"] if found.tasks else [])))
    if found.missing or not found.finished:
        raise StoppedAndSaved("not complete", where=str(folder), hint="run the missing tasks again")
