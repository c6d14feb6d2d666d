"""Kernels: functions compiled by numba once per machine kind and kept in the user's cache folder.

    @kernel
    def count(text, offsets): ...

A kernel releases the GIL and is compiled on its first call (0.3 to 3 s); the machine code is then loaded from

    ~/.cache/ptool/kernels/<ptool version>-<numba version>-<CPU>-<digest>/

The digest covers the CPU's features and the sources of this package and of the kernel's own: numba itself looks only at
the file of the kernel that is called, not at the kernels that were compiled into it. So a thousand array tasks with a
shared home compile once, two kinds of node never overwrite each other's code, and an upgrade never runs old code.
`XDG_CACHE_HOME` moves the folder; where `NUMBA_CACHE_DIR` is set, numba's own rules hold. Without a folder that can be
written, or with a full disk, kernels are compiled anew in each process: slower, never wrong.

numba's settings are global, and a notebook may have kernels of its own. So the folder is set only while one of ours is
declared.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.registry import cpu_target

from ptool import __version__

_HERE = Path(__file__).parent

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile `function` on its first call, without the GIL, and keep the machine code for later processes."""
    compiled = numba.njit(nogil=True)(function)
    configured = numba.config.CACHE_DIR
    folder = configured or cache_folder(Path(function.__code__.co_filename).parent)
    if folder is not None:
        numba.config.CACHE_DIR = str(folder)
        try:
            with suppress(RuntimeError):  # numba's error for "nowhere to write"
                compiled.enable_caching()
        finally:
            numba.config.CACHE_DIR = configured
        _keep_only_if_possible(compiled)
    return compiled  # type: ignore[no-any-return]


@cache
def cache_folder(package: Path = _HERE) -> Path | None:
    """The folder for the kernels of a package, for this version and machine; None where there is no place.

    It is made and writable by this user alone.
    """
    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()  # what numba compiles for
    name = f"{__version__}-{numba.__version__}-{cpu}-{_digest(features, package)}"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for root in (base / "ptool", Path(tempfile.gettempdir()) / f"ptool-{os.getuid()}"):
        folder = root / "kernels" / name
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # What lies there is unpickled and run: in a shared /tmp, somebody else may have made the folder first.
            if _is_private(root) and _is_private(folder) and os.access(folder, os.W_OK):
                return folder
    return None


def _is_private(folder: Path) -> bool:
    status = folder.stat(follow_symlinks=False)
    writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not writable_by_others


def _digest(features: str, package: Path) -> str:
    digest = hashlib.sha256(features.encode())
    for source in sorted({*_HERE.glob("*.py"), *package.glob("*.py")}):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _keep_only_if_possible(compiled: Any) -> None:
    """A disk that fills up while a kernel is stored must not end the work that needed the kernel."""
    store = compiled._cache.save_overload

    def store_if_possible(signature: object, code: object) -> None:
        with suppress(OSError):
            store(signature, code)

    compiled._cache.save_overload = store_if_possible
