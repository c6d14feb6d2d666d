"""ptool: a Unix-style toolbox for LLM pretraining.

The public names below load their modules on first use, so that `import ptool` costs nothing and `ptool --help` never
meets numpy, numba or torch.

    from ptool import filter_documents
    kept = list(filter_documents(documents, "gopher-quality"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptool.costing.estimate import estimate_cost
    from ptool.dedup.config import DedupConfig
    from ptool.dedup.documents import dedup_documents
    from ptool.errors import PtoolError
    from ptool.evaluation.run import evaluate
    from ptool.filtering.documents import filter_documents
    from ptool.formats.packed import PackedDataset
    from ptool.formats.streams import StreamReader, StreamWriter
    from ptool.models.config import ModelConfig, load_size
    from ptool.packing.run import pack
    from ptool.tokenizers.loading import load_tokenizer

__version__ = "0.1.0"

_PUBLIC = {
    "DedupConfig": "ptool.dedup.config",
    "ModelConfig": "ptool.models.config",
    "PackedDataset": "ptool.formats.packed",
    "PtoolError": "ptool.errors",
    "StreamReader": "ptool.formats.streams",
    "StreamWriter": "ptool.formats.streams",
    "dedup_documents": "ptool.dedup.documents",
    "estimate_cost": "ptool.costing.estimate",
    "evaluate": "ptool.evaluation.run",
    "filter_documents": "ptool.filtering.documents",
    "load_size": "ptool.models.config",
    "load_tokenizer": "ptool.tokenizers.loading",
    "pack": "ptool.packing.run",
}

__all__ = [
    "DedupConfig",
    "ModelConfig",
    "PackedDataset",
    "PtoolError",
    "StreamReader",
    "StreamWriter",
    "__version__",
    "dedup_documents",
    "estimate_cost",
    "evaluate",
    "filter_documents",
    "load_size",
    "load_tokenizer",
    "pack",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ptool' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
