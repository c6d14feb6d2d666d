"""A folder filled by many tasks: the same plan from each, the same end whoever finishes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptool.errors import InputError, UsageError
from ptool.formats import folders
from ptool.formats.folders import (
    FolderPlan,
    folder_status,
    my_inputs,
    parse_shard,
    plan_folder,
    ranges,
    run_folder,
)
from ptool.formats.manifests import Manifest
from ptool.formats.stages import StageReport, StreamOptions, TransformRun, read_manifest


def make_inputs(tmp_path: Path, count: int) -> list[str]:
    paths = []
    for number in range(count):
        path = tmp_path / "in" / f"{number % 2}" / f"part{number // 2}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"id":"{number}","text":"document {number}"}}\n')
        paths.append(str(path))
    return paths


def copy(inputs: list[str], folder: Path, shard: str, config: dict[str, object] | None = None) -> None:
    tasks = parse_shard(shard)
    settings = config or {"a": 1}
    plan = plan_folder(folder, stage="filter", config=settings, inputs=inputs, suffix=".jsonl.zst", tasks=tasks)

    def make(position: int, path: Path) -> StageReport:
        options = StreamOptions(manifest_beside=True)
        with TransformRun("filter", settings, [inputs[position]], path, options=options) as run:
            if not run.up_to_date:
                for lines in run.lines():
                    run.keep(lines.data, lines.data.count(b"\n"))
            return run.finish()

    run_folder(folder, plan, my_inputs(plan, tasks), make)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("run.json")
    }


def test_status_names_the_missing_tasks_until_the_last_one_finishes(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, 7)
    folder = tmp_path / "out"
    copy(inputs, folder, "2/3")
    status = folder_status(folder)
    assert (status.array, status.finished) == ("1,3", False)
    assert len(status.missing) == 5
    copy(inputs, folder, "3/3")
    copy(inputs, folder, "1/3")
    status = folder_status(folder)
    assert (status.array, status.missing, status.finished) == ("", [], True)


def test_a_task_looks_no_further_than_the_first_output_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []

    def reading(path: Path) -> Manifest | None:
        looked_at.append(path.name)
        return read_manifest(path)

    monkeypatch.setattr(folders, "read_manifest", reading)
    copy(make_inputs(tmp_path, 40), tmp_path / "out", "1/20")
    assert len(looked_at) == 2


def test_the_folder_is_the_same_bytes_for_any_order_of_tasks(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, 5)
    for name, order in (("a", ["1/2", "2/2"]), ("b", ["2/2", "1/2"])):
        for shard in order:
            copy(inputs, tmp_path / name, shard)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert "manifest.json" in tree(tmp_path / "a")
    assert "1/part0.jsonl.zst.manifest.json" in tree(tmp_path / "a")


def test_a_smaller_array_of_the_missing_tasks_keeps_the_first_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(tmp_path, 6)
    folder = tmp_path / "out"

    def as_task(task: int, count: int, first: int) -> None:
        for name, value in (("ID", task), ("COUNT", count), ("MIN", first)):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        copy(inputs, folder, "slurm")

    as_task(0, 3, 0)
    as_task(1, 3, 0)
    assert folder_status(folder).array == "2"
    as_task(2, 1, 2)  # sbatch --array=2
    assert folder_status(folder).finished


def test_tasks_that_start_at_the_same_moment_agree_on_one_plan(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, 16)
    barrier = threading.Barrier(8)

    def task(number: int) -> None:
        barrier.wait()
        copy(inputs, tmp_path / "out", f"{number}/8")

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(task, number) for number in range(1, 9)]:
            future.result()
    assert folder_status(tmp_path / "out").finished


def test_other_work_in_the_folder_is_refused(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, 2)
    copy(inputs, tmp_path / "out", "1/1")
    with pytest.raises(UsageError, match="other work"):
        copy(inputs, tmp_path / "out", "1/1", config={"a": 2})
    with pytest.raises(UsageError, match="other work"):
        copy(inputs[:1], tmp_path / "out", "1/1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="other files"):
        copy(inputs, tmp_path / "mine", "1/1")


def test_a_folder_ptool_did_not_plan_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither plan.json nor manifest.json"):
        folder_status(tmp_path)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 3))
def test_every_input_belongs_to_exactly_one_task(num_inputs: int, num_tasks: int, first: int) -> None:
    names = [str(n) for n in range(num_inputs)]
    plan = FolderPlan(
        stage="x", version="0", config={}, inputs=names, outputs=names, num_tasks=num_tasks, first_task=first
    )
    taken = [n for task in range(num_tasks) for n in my_inputs(plan, (task + first, num_tasks, first))]
    assert sorted(taken) == list(range(num_inputs))


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "3", "1/0", "-1/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)


def test_ranges_are_written_as_slurm_reads_them() -> None:
    assert ranges([3, 17, 18, 19]) == "3,17-19"
    assert ranges([]) == ""
    assert ranges([1, 2]) == "1-2"
