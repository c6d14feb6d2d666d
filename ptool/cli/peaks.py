"""The dense peak of this machine's GPU, from the table that `estimate-cost` reads: the denominator of MFU.

Training may not read another stage's table, so the command line looks it up and hands it over as a setting. A GPU that
the table does not name has no peak here and no MFU there: a guess would make every figure wrong by a constant factor.
"""

from __future__ import annotations

import re

_NAMES = (  # what the driver calls it (torch.cuda.get_device_name), and its row; the first that fits
    (r"A100.*80GB", "a100-80gb"),
    (r"A100.*40GB", "a100-40gb"),
    (r"GH200", "gh200"),
    (r"GB200", "gb200"),
    (r"H100 PCIe", "h100-pcie"),
    (r"H100 80GB HBM3", "h100-sxm"),
    (r"H800(?! PCIe)", "h800-sxm"),
    (r"H200(?! NVL)", "h200"),
    (r"B200", "b200"),
    (r"B300", "b300"),
    (r"MI300X", "mi300x"),
    (r"MI355X", "mi355x"),
    (r"L40S", "l40s"),
    (r"RTX 4090(?! D)", "rtx-4090"),
)


def row_of(device_name: str) -> str | None:
    """The table's name of a GPU that the driver calls `device_name`, or None."""
    return next((row for pattern, row in _NAMES if re.search(rf"\b{pattern}", device_name)), None)


def peak_tflops() -> float | None:
    """Of this machine's first GPU; None without one, or for one that is not in the table."""
    from ptool.training.machine import count_gpus

    if count_gpus() == 0:
        return None
    import torch

    from ptool.costing.tables import find_gpu

    row = row_of(torch.cuda.get_device_name(0))
    return None if row is None else find_gpu(row).peak_flops / 1e12
