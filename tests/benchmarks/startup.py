"""What a command costs before it does anything: median wall times, and their ratio to `import argparse`.

    python tests/benchmarks/startup.py [--runs 31]

The commands take turns, so that a busy moment of the machine hits all of them; ratios travel between machines, and
milliseconds do not. Wanted: `ptool --help` at most 2 times `python -c 'import argparse'`, estimate-cost under 150 ms.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PTOOL = str(Path(sys.executable).with_name("ptool"))
ESTIMATE = ["estimate-cost", "--params", "70e9", "--tokens", "2e12"]

COMMANDS = {
    "python -c 'pass'": [sys.executable, "-c", "pass"],
    "python -c 'import argparse'": [sys.executable, "-c", "import argparse"],
    "ptool --version": [PTOOL, "--version"],
    "ptool --help": [PTOOL, "--help"],
    "ptool --complete gpus": [PTOOL, "--complete", "gpus"],
    "ptool estimate-cost --help": [PTOOL, "estimate-cost", "--help"],
    "ptool estimate-cost": [PTOOL, *ESTIMATE],
    "ptool estimate-cost --json": [PTOOL, *ESTIMATE, "--json"],
    "ptool estimate-cost --model": [PTOOL, "estimate-cost", "--model", "7b", "--tokens", "2e12"],
    "ptool plan": [PTOOL, "plan", "--model", "70b", "--gpus", "512"],
}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--runs", type=int, default=31)
    num_runs = options.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(num_runs + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if number:  # the first round fills caches
                seconds[name].append(time.perf_counter() - started)
    baseline = statistics.median(seconds["python -c 'import argparse'"])
    print(f"median of {num_runs} runs{'':14}ms     min   x argparse")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:30}{median * 1000:6.1f}  {min(times) * 1000:6.1f}  {median / baseline:10.2f}")


if __name__ == "__main__":
    main()
