"""Messages of broken hardware, from logs whose content is known."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ptool.training import kernel_log
from ptool.training.kernel_log import HardwareReport

LINES = [
    "6,1,1000000,-;usb 1-1: new device",
    "4,2,3600000000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.",
    " SUBSYSTEM=pci",
    "4,3,7190000000,-;EDAC MC0: 1 UE memory read error on CPU_SrcID#0",
    "4,4,7195000000,-;NVRM: Xid (PCI:0000:3b:00): 9999, something new",
]


def test_what_the_driver_says_in_numbers_is_said_in_words_with_its_age() -> None:
    found = kernel_log.of_kernel(LINES, uptime=7200.0)
    assert len(found) == 3
    assert found[0].startswith("60 minutes ago: NVRM: Xid (PCI:0000:3b:00): 79")
    assert found[0].endswith("(the GPU has fallen off the bus: power, heat or PCIe)")
    assert "EDAC MC0" in found[1]
    assert found[2].endswith("something new"), "an unknown number stays as it is"


def test_messages_of_the_day_before_are_left_out() -> None:
    assert kernel_log.of_kernel(LINES, uptime=3 * 24 * 3600.0) == []


def test_a_log_that_may_not_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    report = kernel_log.read(str(tmp_path / "kmsg"))
    assert report.unreadable == ["the kernel's log (no such file or directory)"]
    assert kernel_log.sentence([report]) == "not readable here: the kernel's log (no such file or directory)"
    quiet = HardwareReport(host="a", messages=[], unreadable=[])
    assert kernel_log.sentence([quiet]) == "the kernel reports no error of GPU or memory"
    loud = HardwareReport(host="b", messages=["x", "y"], unreadable=[])
    assert kernel_log.sentence([quiet, loud, loud, report]) == "errors of GPU or memory: b reports 2"


def test_a_log_that_is_written_over_while_it_is_read_is_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kmsg").write_text("")
    records: list[bytes | OSError] = [LINES[1].encode(), BrokenPipeError(), LINES[3].encode(), BlockingIOError()]

    def read(descriptor: int, size: int) -> bytes:
        record = records.pop(0)
        if isinstance(record, OSError):
            raise record
        return record

    monkeypatch.setattr(os, "read", read)
    assert kernel_log._kernel_lines(str(tmp_path / "kmsg")) == [LINES[1], LINES[3]]


def test_gpu_counters_and_nccl_warnings_are_read_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0, 0\\n1, 3\\n2, [N/A]\\n'\n")
    tool.chmod(0o755)
    (tmp_path / "kmsg").write_text("\n".join(LINES[:1]))
    (tmp_path / "nccl.txt").write_text("n1:1 NCCL INFO fine\nn1:1 [0] x.cc:1 NCCL WARN Cuda failure\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("NCCL_DEBUG_FILE", str(tmp_path / "nccl.txt"))
    report = kernel_log.read(str(tmp_path / "kmsg"))
    assert report.messages == [
        "GPU 1: 3 uncorrected ECC errors since the driver was loaded",
        "NCCL: n1:1 [0] x.cc:1 NCCL WARN Cuda failure",
    ]


def test_a_tool_that_hangs_in_a_lost_gpu_and_cannot_be_killed_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 20\n")
    tool.chmod(0o755)
    (tmp_path / "kmsg").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("NCCL_DEBUG_FILE", raising=False)
    monkeypatch.setattr(kernel_log, "NVIDIA_SMI_SECONDS", 0.1)
    unkillable: list[subprocess.Popen[str]] = []
    kill = subprocess.Popen.kill

    def kill_in_vain(process: subprocess.Popen[str]) -> None:
        unkillable.append(process)

    monkeypatch.setattr(subprocess.Popen, "kill", kill_in_vain)
    report = kernel_log.read(str(tmp_path / "kmsg"))
    assert report.messages == ["nvidia-smi does not answer within 0.1 s: a GPU may be lost"]
    assert unkillable[0].poll() is None
    kill(unkillable[0])
    unkillable[0].communicate()
