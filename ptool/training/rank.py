"""One rank: `python -m ptool.training.rank RUN`, started by launch.py; also what a rank of torchrun or srun does.

The order matters: first the tie to the parent, then the signal handlers, then the heavy imports. Standard output
belongs to the command's product, so what libraries print there is dropped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from ptool.errors import InputError, PtoolError
from ptool.reporting import SILENT, Reporter
from ptool.training import initial, launch_folder, locks
from ptool.training.config import RunConfig
from ptool.training.requirements import FP16_WARNING
from ptool.training.settings_text import from_toml
from ptool.training.signals import StopRequest

CONFIG = "config.toml"
LONGEST_HINT = 600


def main() -> None:
    """The process's whole life; ends it without unwinding, since a peer may be gone."""
    from ptool.training import launch

    launch.follow_launcher()
    stop = StopRequest()
    stop.listen()
    folder, rank, run = Path(os.environ[launch.FOLDER_VARIABLE]), int(os.environ["RANK"]), Path(sys.argv[1])
    launch_folder.announce(folder, rank)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    code = 0
    try:
        reporter: Reporter = launch_folder.PipeReporter(folder) if rank == 0 else SILENT
        work(run, stop, reporter)
    except PtoolError as error:
        launch_folder.leave_error(folder, rank, error)
        code = error.exit_code
    except BaseException as error:  # noqa: BLE001 (whatever it was, the launcher must hear of it)
        code = 1
        launch_folder.leave_error(folder, rank, describe(error))
    sys.stderr.flush()
    os._exit(code)


def work(run: Path, stop: StopRequest, reporter: Reporter, *, joined: bool = False) -> None:
    """Train in `run` as the rank that RANK and WORLD_SIZE name; `joined`: the process group is there already."""
    config = from_toml(run / CONFIG)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    lock = locks.acquire(run, locks.rank_name(rank))
    if not lock.guards:
        reporter.notice("this file system knows no locks: nothing keeps a second start out of the run folder")
    if world_size != config.parallel.ranks:
        message = f"this run was started with {config.parallel.ranks} ranks, and there are {world_size} now"
        raise InputError(message, where=str(run), hint=f"start it with {config.parallel.ranks}")
    import warnings

    import torch

    from ptool.training import engine as engines

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # DeepSpeed's use of torch, not ours

    os.environ.pop("OMPI_COMM_WORLD_LOCAL_RANK", None)  # under mpirun -n 1 it is the launcher's; DeepSpeed compares it
    torch.set_num_threads(config.parallel.threads)
    if config.parallel.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it (NVIDIA's manual, 2.1.4)
        torch.use_deterministic_algorithms(True)
    if not joined:
        engines.start(config.parallel.device, config.parallel.timeout_seconds)
    try:
        _train(run, config, stop, reporter)
    finally:
        engines.stop()
    lock.release()


def _train(run: Path, config: RunConfig, stop: StopRequest, reporter: Reporter) -> None:
    from ptool.models.decoder import Decoder
    from ptool.models.execution import Execution
    from ptool.training.corpus import open_corpus
    from ptool.training.engine import Engine, EngineSpec
    from ptool.training.finish import finish
    from ptool.training.loop import Trainer
    from ptool.training.ranks import Ranks

    corpus = open_corpus(config)
    precision = config.parallel.precision
    optimizer = config.optimizer
    spec = EngineSpec(
        zero=config.parallel.zero,
        precision="fp32" if precision == "auto" else precision,
        device="cuda" if config.parallel.device == "cuda" else "cpu",
        accumulation=config.phase[0].accumulation(config.parallel.ranks),
        optimizer=optimizer.name,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )
    execution = Execution(**msgspec.structs.asdict(config.execution))
    if config.run.init and not initial.has_begun(run):
        decoder = initial.load(config, execution=execution)
    else:
        decoder = Decoder(config.model_config, seed=config.run.seed, execution=execution)
    engine = Engine(decoder, spec)
    if precision == "fp16":
        reporter.notice(FP16_WARNING)
    ranks = Ranks(engine.device)
    locks.expect_no_ranks(run, own=range(ranks.size)) if ranks.is_first else None
    trainer = Trainer(run, config, corpus, engine, ranks, stop=stop, reporter=reporter)
    finished = False
    try:
        trainer.start()
        trainer.train()
        ranks.together(lambda: finish(run, config, corpus.datasets) if ranks.is_first else None)
        trainer.timeline.record("finish", step=config.run.max_steps)
        ranks.barrier()
        finished = True
    except RuntimeError as error:
        if trainer.instruments.diagnosis is None:
            raise
        raise PtoolError(trainer.instruments.diagnosis, hint=f"ptool resume {run} goes on") from error
    finally:
        trainer.close(finished=finished)


def describe(error: BaseException) -> PtoolError:
    """An unforeseen error; a collective that failed because its peer is gone is marked as a consequence."""
    import traceback

    from ptool.training.launch import PEER_LOST

    text = str(error).strip().split("\n")[0]
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _PEER_WORDS):
        # NCCL says what happened in its last lines; where no rank was lost after all, that is all there is to tell.
        said = " ".join(str(error).partition("Exception raised from")[0].split())
        return PtoolError(PEER_LOST, hint=said if len(said) <= LONGEST_HINT else f"…{said[-LONGEST_HINT:]}")
    if isinstance(error, MemoryError):
        return PtoolError("out of memory", hint="try a smaller batch.micro_rows")
    traceback.print_exception(error)
    return PtoolError(f"{type(error).__name__}: {text}")


_PEER_WORDS = ("Connection closed by peer", "Connection reset", "Broken pipe", "Connection refused", "NCCL", "gloo")


if __name__ == "__main__":
    main()
