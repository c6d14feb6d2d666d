"""ptool: a Unix-style toolbox for LLM pretraining.

The public names below load their modules on first use, so that `import ptool` costs nothing
and `ptool --help` never meets numpy, numba or torch.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "PtoolError": "ptool.errors",
}

__all__ = ["PtoolError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ptool' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
