"""The format's specification: its snippets run, and its tables agree with the code."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards.catalog import DATASETS
from shards.manifest import Manifest, read_manifest
from shards.store import FRAMES_PER_CHUNK, FRAMES_PER_SHARD, INFO_COLUMNS, SEGMENT_COLUMNS

README = (Path(__file__).resolve().parents[2] / "shards" / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("source", "dataset", "protocol"),
    [("ntu", "ntu60", "xsub"), ("ntu", "ntu120", "xset"), ("pkummd1", "pkummd1", "xview")],
)
def test_every_snippet_runs_on_a_finished_folder(
    make_folder: Callable[..., Path], source: str, dataset: str, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(source=source)
    names: dict[str, Any] = {"folder": folder, "dataset": dataset, "protocol": protocol}
    assert len(SNIPPETS) == 8
    for snippet in SNIPPETS:
        exec(compile(snippet, "shards/README.md", "exec"), names)
    entries = read_manifest(folder).shards
    cells = read_manifest(folder).cells
    sides = {entry.path for entry in entries if cells[entry.cell].memberships.get(f"{dataset}/{protocol}") == "train"}
    assert set(names["train"]) == sides != set()
    assert names["last"].shape[1:] == (2, 25, 3)
    assert source in capsys.readouterr().out


def test_the_tables_name_every_field_and_every_column() -> None:
    for name in (*Manifest.model_fields, *INFO_COLUMNS, *SEGMENT_COLUMNS, "offsets", "key"):
        assert f"`{name}`" in README or f"/{name}`" in README, name


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"chunks of {FRAMES_PER_CHUNK} frames in shards of {FRAMES_PER_SHARD:,} frames" in README
    for data in DATASETS.values():
        for train, test in data.counts.values():
            assert f"| {train:,} / {test:,}" in README
