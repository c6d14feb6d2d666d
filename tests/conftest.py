"""What all tests share: where real data lies, and an end of the run that says what was left out and why."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# Examples are not timed: other work on the machine would make them fail by chance.
settings.register_profile("ptool", deadline=None)
settings.load_profile("ptool")

_skipped: Counter[str] = Counter()

# A shell starts what it puts into the background with SIGINT ignored, and programs pass that on: no test of Ctrl-C
# could reach its child.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and tools (PTOOL_SHARED, default ../shared); skips the test where it is absent."""
    folder = Path(os.environ.get("PTOOL_SHARED", Path(__file__).parents[1] / ".." / "shared")).resolve()
    if not (folder / "data").is_dir():
        pytest.skip("no real data: set PTOOL_SHARED")
    return folder


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line of the run."""
    reasons = "; ".join(f"{count} for: {reason}" for reason, count in sorted(_skipped.items()))
    print(f"\nleft out: {sum(_skipped.values())} tests" + (f" ({reasons})" if reasons else ""))  # noqa: T201 (after everything pytest has to say)
