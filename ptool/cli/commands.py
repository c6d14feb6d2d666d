"""The command table: every command with the function behind it and its one line of purpose.

Everything that must be quick (`--help`, `--version`, completion) is answered from here, without importing a command.
A test holds that each row's summary is the first line of its function's docstring.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A row of the table."""

    name: str
    summary: str
    function: str
    group: str

    @property
    def module(self) -> str:
        """The module that holds the command's function."""
        return f"ptool.cli.{self.name.replace('-', '_')}"


COMMANDS = {
    command.name: command
    for command in (
        Command("filter", "Keep the documents that a set of rules accepts.", "filter_", "Documents"),
        Command("dedup", "Drop documents that repeat an earlier one.", "dedup", "Documents"),
        Command("explain", "Say what happened to one document, and why.", "explain", "Documents"),
        Command("stats", "Count what a document stream holds.", "stats", "Documents"),
        Command("status", "List what an output folder still lacks.", "status", "Documents"),
        Command("train-tokenizer", "Train a tokenizer on a document stream.", "train_tokenizer", "Tokens"),
        Command("fertility", "Compare tokenizers by the tokens they need for a text.", "fertility", "Tokens"),
        Command("tokenize", "Turn a document stream into token shards.", "tokenize", "Tokens"),
        Command("pack", "Pack token shards into rows of one length.", "pack", "Tokens"),
        Command("locate", "Name the documents of a packed row.", "locate", "Tokens"),
        Command("estimate-cost", "Say what a training run will cost.", "estimate_cost", "Model"),
        Command("plan", "Choose how to spread a model over GPUs.", "plan", "Model"),
        Command("train", "Train a model on packed rows.", "train", "Model"),
        Command("resume", "Go on with a training run.", "resume", "Model"),
        Command("plot", "Draw training runs: loss, learning rate, gradient norm, throughput.", "plot", "Model"),
        Command("eval", "Measure a model's loss, perplexity and bits per byte.", "eval_", "Model"),
        Command("export", "Write a run's model as a Hugging Face folder.", "export", "Model"),
        Command("demo", "Run the whole pipeline on this machine's own documentation.", "demo", "Model"),
    )
}

PURPOSE = "A Unix-style toolbox for LLM pretraining: from raw web text to a trained, evaluated model."


def overview() -> str:
    """What `ptool --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["Usage: ptool COMMAND [ARGUMENT...]", "", PURPOSE, ""]
    group = ""
    for command in COMMANDS.values():
        if command.group != group:
            lines += [f"{command.group}:"]
            group = command.group
        lines.append(f"  {command.name:<{width}}{command.summary}")
    lines += [
        "",
        "Options:",
        f"  {'--help':<{width}}This text; `ptool COMMAND --help` for one command.",
        f"  {'--version':<{width}}The version.",
        "",
        "Examples:",
        "  ptool demo",
        "  ptool filter crawl.jsonl.zst --preset gopher-quality -o clean.jsonl.zst",
        "  ptool filter *.jsonl.zst | ptool dedup | ptool tokenize --tokenizer tok.model -o tok/",
        "",
        "Exit status: 0 ok, 1 failed, 2 usage, 3 finished with too many rejected records, 4 a requested",
        "check failed, 75 stopped and saved: run it again; 128+N ended by signal N. Manual: man/ptool.1",
    ]
    return "\n".join(lines) + "\n"


def names_of(kind: str) -> list[str]:
    """The values that shell completion offers for `kind`; nothing for a kind that does not exist."""
    if kind == "commands":
        return list(COMMANDS)
    if kind == "rules":
        from ptool.plugins import names

        return names("ptool.filtering.rules")
    tables = {"models": ("models", "sizes.toml"), "gpus": ("costing", "gpus.toml")}
    from importlib.resources import files

    if kind == "presets":
        folder = files("ptool.filtering").joinpath("presets")
        return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if kind in tables:
        import tomllib

        package, name = tables[kind]
        return list(tomllib.loads(files(f"ptool.{package}").joinpath(name).read_text(encoding="utf-8")))
    return []
