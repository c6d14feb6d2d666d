"""`ptool export`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ptool.cli import options as opt
from ptool.cli.output import current
from ptool.exporting.run import export_run
from ptool.formats.artefacts import find_artefact
from ptool.units import parse_count


def export(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run folder; none or - reads the line of `train` on stdin.")
    ] = None,
    output_folder: opt.FolderOutput = ...,  # type: ignore[assignment]
    checkpoint: Annotated[
        int | None,
        typer.Option(parser=parse_count, metavar="STEP", help="The checkpoint of this step; default: the newest."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Of the weights; float32 keeps them to the bit, the others take half the space."),
    ] = "float32",
    force: opt.Force = False,
) -> None:
    """Write a run's model as a Hugging Face folder.

    Writes config.json, model.safetensors and the tokenizer of the newest checkpoint that verifies, in the Llama layout
    (with model.qk_norm: Qwen 3) that transformers, vLLM and llama.cpp's converter load from the folder's path. The
    folder has a manifest.json too, with the whole history of the model.

    An embedding scale and muP's factors are folded into the weights. Models with LayerNorm, post-norm, learned
    positions or GELU have no equal there and are refused; `ptool eval` reads every model.

    A SentencePiece tokenizer is exported as it is, and as tokenizer.json where that gives the same ids: the file is
    tried on random sentences first. The token that ends a document is named as the beginning too, because every
    document was trained to follow one: begin prompts with it.

    Examples:
        ptool export runs/a -o hf/
        ptool export runs/a --checkpoint 500 --dtype bfloat16 -o hf-500/
        ptool train packed/ --model 10m -o runs/a | ptool export -o hf/ | jq .manifest.details
    """
    out = current()
    folder = find_artefact(opt.artefact_input(run))
    report = export_run(folder, output_folder, step=checkpoint, dtype=dtype, force=force, reporter=out.reporter)
    out.artefact(report.folder, report.manifest, report.rows())
