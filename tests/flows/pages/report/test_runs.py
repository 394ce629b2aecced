"""Runs of a report: names that tell them apart, and seeds as one group."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.config import read_config
from flows.pages.report.runs import brief, colourings, group_runs, read_runs
from shards.errors import ConfigError
from tests.flows.conftest import METHOD


def copy(run: Path, to: Path, seed: int = 0, **data: Any) -> Path:
    """A copy of the run that says it had another seed or other data."""
    shutil.copytree(run, to)
    tree = json.loads((to / "config.json").read_text())
    tree["train"]["seed"] = seed
    tree["data"] |= data
    (to / "config.json").write_text(json.dumps(tree))
    return to


def test_a_single_run_is_called_by_its_method(run: Path) -> None:
    (only,) = read_runs([run])
    assert only.name == read_config(run / "config.json").method == METHOD
    assert len(only.log) == 2
    assert only.data.manifest is not None


def test_runs_are_called_by_what_tells_them_apart_and_seeds_are_one_group(run: Path, tmp_path: Path) -> None:
    folders = [
        copy(run, tmp_path / "a"),
        copy(run, tmp_path / "b", seed=1),
        copy(run, tmp_path / "c", streams=["bone"]),
        copy(run, tmp_path / "d", streams=["bone"], protocol="xsub"),
    ]
    runs = read_runs(folders)
    assert [own.name for own in runs] == [
        f"{METHOD}, ntu60 xview, joint, seed 0",
        f"{METHOD}, ntu60 xview, joint, seed 1",
        f"{METHOD}, ntu60 xview, bone, seed 0",
        f"{METHOD}, ntu60 xsub, bone, seed 0",
    ]
    groups = group_runs(runs)
    assert [(group.number, group.name, len(group.runs)) for group in groups] == [
        (0, f"{METHOD}, ntu60 xview, joint", 2),
        (2, f"{METHOD}, ntu60 xview, bone", 1),
        (3, f"{METHOD}, ntu60 xsub, bone", 1),
    ]
    assert brief(groups[:2]) == {groups[0].name: f"{METHOD}, joint", groups[1].name: f"{METHOD}, bone"}
    # short names that are equal would not tell them apart
    assert brief(groups)[groups[1].name] == groups[1].name
    assert colourings(runs) == {
        "data": [0, 0, 0, 1],
        "stream": [0, 0, 1, 1],
        "seed": [0, 1, 0, 0],
        "run": [0, 1, 2, 3],
    }


def test_runs_that_nothing_tells_apart_are_called_by_their_folders(run: Path, tmp_path: Path) -> None:
    twins = [copy(run, tmp_path / name) for name in ("a", "b")]
    assert [own.name for own in read_runs(twins)] == [f"{METHOD} (a)", f"{METHOD} (b)"]
    same = [copy(run, tmp_path / name / "run") for name in ("c", "d")]
    assert [own.name for own in read_runs(same)] == [f"{METHOD} (run) #1", f"{METHOD} (run) #2"]


def test_no_run_and_one_twice_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="found no run, expected at least one"):
        read_runs([])
    with pytest.raises(ConfigError, match="found it 2 times among the runs, expected each once"):
        read_runs([run, run / ".." / run.name])
