"""The Slurm batch script of a training run: N nodes, one rank per GPU, requeued until the run is finished.

    time limit near     Slurm signals the batch shell (--signal=B:USR1@300), which passes it to srun, srun to the ranks;
                        they save and exit 75, and the script asks for its own requeue
    preemption          Slurm sends SIGTERM to the ranks: the same. A program that saves and exits 0 here would be taken
                        for finished and never be requeued
    a node dies         Slurm requeues (--requeue); the newest checkpoint serves
    scancel             the batch shell has no trap for SIGTERM, so it dies before it can requeue what a person ended
    a failure           any other exit code ends the job with it: a requeue would fail again, for ever

`wait` returns as soon as a trapped signal arrives, long before the ranks have saved, so the script waits again until
srun has really ended. `--kill-on-bad-exit=0`: a site's default of 1 would kill the ranks that exit 75 a moment later,
and the job's code would be 137. The script is text from the words of the command line: nothing is looked up, written
or submitted. Checked with Slurm 22.05.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ptool.errors import UsageError

GRACE_SECONDS = 300  # between Slurm's signal and the time limit; a save and the end of a step must fit
STRAGGLER_SECONDS = 60  # for the last ranks to end after the first: nobody waits for one that hangs
_OURS = {"--print-sbatch": 0, "--nodes": 1, "--gpus-per-node": 1}
"""Options of the printing itself, with the number of words that follow."""


def script(
    words: Sequence[str],
    packed: Sequence[str] | None,
    run: Path,
    *,
    nodes: int,
    gpus_per_node: int,
    ranks: int | None = None,
    folder: Path | None = None,
    program: Sequence[str] | None = None,
) -> str:
    """The batch script that trains `packed` into `run` with the words of a `ptool train` command line.

    `gpus_per_node` 0 means CPU ranks: `ranks` in all, or one per node. `folder` is where relative paths hold (default:
    here), `program` what `ptool` is (default: this interpreter's). Raises UsageError for what a job cannot do.
    """
    if not packed or "-" in packed:
        raise UsageError("a job has no pipe to read the packed folder from", hint="name it: ptool train PACKED/ …")
    folder = Path.cwd() if folder is None else folder
    kept = _without_ours(words)
    for flag, reason in (("--force", "each requeue would begin the run anew"), ("--dry-run", "nothing would train")):
        if flag in kept:
            raise UsageError(f"{flag} has no place in a job: {reason}", hint=f"leave {flag} out")
    if nodes < 1:
        raise UsageError("--nodes 0: at least one node is needed")
    per_node = gpus_per_node or max(1, (ranks or nodes) // nodes)
    if ranks is not None and ranks != nodes * per_node:
        told = f"{nodes} x {gpus_per_node} GPUs" if gpus_per_node else f"a multiple of {nodes} nodes"
        raise UsageError(f"--ranks {ranks}, and the job has {told}", hint="leave --ranks out: one rank per GPU")
    if ranks is None:
        kept += ["--ranks", str(nodes * per_node)]
    command = shlex.join([*(program or [sys.executable, "-m", "ptool"]), "train", *kept])
    options = [
        f"--job-name=ptool-{_plain(run.name)}",
        f"--nodes={nodes}",
        f"--ntasks-per-node={per_node}",
        *([f"--gpus-per-node={gpus_per_node}"] if gpus_per_node else []),
        "--requeue",
        f"--signal=B:USR1@{GRACE_SECONDS}",
        "--open-mode=append",
        f"--output=ptool-{_plain(run.name)}-%j.log",
    ]
    directives = "\n".join(f"#SBATCH {option}" for option in options)
    return _TEMPLATE.format(
        directives=directives, folder=shlex.quote(str(folder)), command=command, straggler=STRAGGLER_SECONDS
    )


def _without_ours(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip = 0
    for word in words:
        if skip:
            skip -= 1
        elif word.partition("=")[0] in _OURS:
            skip = 0 if "=" in word else _OURS[word]
        else:
            kept.append(word)
    return kept


def _plain(name: str) -> str:
    """A name that needs no quotes in a directive, where Slurm's own rules for them apply."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name) or "run"


_TEMPLATE = """\
#!/bin/bash
# Written by `ptool train --print-sbatch`. Add what your site asks for: --partition, --account, --time, --cpus-per-task.
# Submit it once: it saves before its time is over or when it is preempted, and comes back until the run is finished.
{directives}

cd {folder} || exit 1
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # srun no longer inherits it

# Slurm signals this shell only. A trap interrupts `wait`: wait again, for the ranks are still saving.
trap 'asked=1; kill -USR1 "$srun" 2>/dev/null && again=1' USR1
srun --kill-on-bad-exit=0 --wait={straggler} \\
  {command} &
srun=$!
[ -z "$asked" ] || kill -USR1 "$srun"  # it came while srun was being started
again=1
while [ -n "$again" ]; do
  again=
  wait "$srun"
  code=$?
done
if [ "$code" -eq 75 ]; then  # stopped and saved: run me again
  scontrol requeue "$SLURM_JOB_ID" || exit 75
fi
exit "$code"
"""
