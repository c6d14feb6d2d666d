"""What the machine itself says of broken hardware, in a person's words.

    the kernel's log     Xid messages of NVIDIA's driver, machine checks, memory controllers (EDAC), PCIe (AER)
    nvidia-smi           uncorrected ECC errors since the driver was loaded
    NCCL_DEBUG_FILE      NCCL's warnings, where a user had it write them to a file

Each is read where it is there and may be read; a container often hides the first, and then the answer says so, since
"no message" would be a lie. An Xid is a number: `XIDS` has what NVIDIA's documentation says of those that matter to a
training run ("XID Errors", r555). Torch-free.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

XIDS = {
    13: "graphics engine exception: a kernel's illegal access, or the GPU",
    31: "GPU memory page fault: an illegal address, seldom the hardware",
    43: "GPU stopped processing: a software fault, the GPU itself is fine",
    45: "work was stopped, after another error or a kill",
    48: "double-bit ECC error: GPU memory is failing",
    61: "internal microcontroller halt: reset the GPU",
    62: "internal microcontroller halt: reset the GPU",
    63: "a memory row was remapped after an ECC error: reset the GPU soon",
    64: "a memory row could not be remapped: replace the GPU",
    69: "graphics engine class error",
    74: "NVLink error: a link between GPUs",
    79: "the GPU has fallen off the bus: power, heat or PCIe",
    92: "high single-bit ECC error rate",
    94: "contained ECC error: this process's memory was hit, restart it",
    95: "uncontained ECC error: reset the GPU, other processes may be hit",
    119: "the GPU's system processor does not answer: reset the GPU",
    120: "the GPU's system processor failed: reset the GPU",
}
_TROUBLE = re.compile(r"NVRM: Xid|Machine check|\bmce:|\bEDAC\b|Uncorrected|\bAER:|Hardware Error", re.IGNORECASE)
_XID = re.compile(r"NVRM: Xid \(([^)]*)\): (\d+)")
MOST = 20
NVIDIA_SMI_SECONDS = 10.0
MOST_RECORDS = 500_000  # more than a kernel keeps; a machine that logs without end must not hold the reader
RECENT_SECONDS = 24 * 3600.0  # older ones had their chance to show


class HardwareReport(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of one host, newest last, and what could not be read."""

    host: str
    messages: list[str]
    unreadable: list[str]


def read(kernel: str = "/dev/kmsg") -> HardwareReport:
    """Everything this host says; takes some milliseconds, with nvidia-smi up to a second."""
    messages: list[str] = []
    unreadable: list[str] = []
    try:
        messages += of_kernel(_kernel_lines(kernel), uptime=time.clock_gettime(time.CLOCK_BOOTTIME))
    except OSError as error:
        unreadable.append(f"the kernel's log ({(error.strerror or str(error)).lower()})")
    messages += _ecc_counts()
    messages += _nccl_warnings(os.environ.get("NCCL_DEBUG_FILE", ""))
    return HardwareReport(host=os.uname().nodename, messages=messages[-MOST:], unreadable=unreadable)


def of_kernel(lines: Sequence[str], *, uptime: float) -> list[str]:
    """The messages about hardware in lines of /dev/kmsg, "level,number,microseconds,flags;text", of the last day."""
    found = []
    for line in lines:
        head, _, text = line.partition(";")
        if not _TROUBLE.search(text):
            continue
        when = head.split(",")[2] if head.count(",") >= 2 else ""
        age = uptime - int(when) / 1e6 if when.isdecimal() else None
        if age is not None and age > RECENT_SECONDS:
            continue
        xid = _XID.search(text)
        meaning = f" ({XIDS[int(xid[2])]})" if xid and int(xid[2]) in XIDS else ""
        ago = "" if age is None else f"{max(age, 0.0) / 60:.0f} minutes ago: "
        found.append(f"{ago}{text.strip()}{meaning}")
    return found


def sentence(reports: Sequence[HardwareReport]) -> str:
    """One clause on the hosts of a run; each host once."""
    hosts = {report.host: report for report in reports}
    told = [f"{host} reports {len(report.messages)}" for host, report in hosts.items() if report.messages]
    if told:
        return f"errors of GPU or memory: {', '.join(told)}"
    unread = sorted({name for report in hosts.values() for name in report.unreadable})
    return f"not readable here: {', '.join(unread)}" if unread else "the kernel reports no error of GPU or memory"


def _kernel_lines(path: str) -> list[str]:
    lines = []
    log = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with suppress(BlockingIOError):
            for _ in range(MOST_RECORDS):
                with suppress(BrokenPipeError):  # written over before it was read, as in a storm: the next one is there
                    record = os.read(log, 8192)
                    if not record:
                        break
                    lines += record.decode(errors="replace").splitlines()
    finally:
        os.close(log)
    return lines


def _ecc_counts() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=index,ecc.errors.uncorrected.volatile.total", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError):
        process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            told, _ = process.communicate(timeout=NVIDIA_SMI_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # and not waited for: where a GPU is lost it waits in the kernel, and cannot be killed
            return [f"nvidia-smi does not answer within {NVIDIA_SMI_SECONDS:g} s: a GPU may be lost"]
        if process.returncode:
            return []
        pairs = [line.split(",") for line in told.splitlines() if line.count(",") == 1]
        return [
            f"GPU {index.strip()}: {count.strip()} uncorrected ECC errors since the driver was loaded"
            for index, count in pairs
            if count.strip().isdecimal() and int(count) > 0
        ]
    return []


def _nccl_warnings(pattern: str) -> list[str]:
    """NCCL puts host and process id in place of %h and %p."""
    path = pattern.replace("%h", os.uname().nodename).replace("%p", str(os.getpid()))
    with suppress(OSError):
        if path:
            lines = Path(path).read_text(errors="replace").splitlines()
            return [f"NCCL: {line.strip()}" for line in lines if " WARN " in line][-5:]
    return []
