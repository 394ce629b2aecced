"""The format's specification: its snippets run, and its tables agree with the code."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.catalog import DATASETS
from shards.encoding import MAX_FIXED_METRES, STORAGES, ZSTD_LEVEL, Storage
from shards.manifest import Manifest, read_manifest
from shards.reader import read_shard
from shards.schema import FORMAT_VERSION
from shards.store import FRAMES_PER_CHUNK, FRAMES_PER_SHARD, open_store
from shards.tables import INFO_COLUMNS, QUALITY_COLUMNS, SEGMENT_COLUMNS

README = (Path(__file__).resolve().parents[2] / "shards" / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize(
    ("source", "dataset", "protocol"),
    [("ntu", "ntu60", "xsub"), ("ntu", "ntu120", "xset"), ("pkummd1", "pkummd1", "xview")],
)
def test_every_snippet_runs_on_a_finished_folder(
    make_folder: Callable[..., Path],
    source: str,
    dataset: str,
    protocol: str,
    dtype: Storage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_folder(source=source, dtype=dtype)
    names: dict[str, Any] = {"folder": folder, "dataset": dataset, "protocol": protocol}
    assert len(SNIPPETS) == 8
    for snippet in SNIPPETS:
        exec(compile(snippet, "shards/README.md", "exec"), names)
    entries = read_manifest(folder).shards
    cells = read_manifest(folder).cells
    sides = {entry.path for entry in entries if cells[entry.cell].memberships.get(f"{dataset}/{protocol}") == "train"}
    assert set(names["train"]) == sides != set()
    store = open_store(folder / "store.zarr")
    assert np.array_equal(names["last"], store.sample(len(store) - 1))
    for start, stop in ((0, 3), (store.num_frames - 5, store.num_frames)):
        assert np.array_equal(names["read_frames"](start, stop), store.read(start, stop))
    assert np.array_equal(names["array"], list(read_shard(folder / names["train"][0]))[-1][1])
    assert source in capsys.readouterr().out


def test_the_tables_name_every_field_and_every_column() -> None:
    columns = (*INFO_COLUMNS, *SEGMENT_COLUMNS, *QUALITY_COLUMNS, "offsets", "key")
    for name in (*Manifest.model_fields, *STORAGES, *columns):
        assert f"`{name}`" in README or f"/{name}`" in README, name


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"version {FORMAT_VERSION}, which" in README
    assert f"| `format_version` | {FORMAT_VERSION}." in README
    assert README.count(f"zstd level {ZSTD_LEVEL}") == 2
    assert f"up to {MAX_FIXED_METRES / 1e3:.0f} km" in README
    assert f"chunks of {FRAMES_PER_CHUNK} frames in shards of {FRAMES_PER_SHARD:,} frames" in README
    for data in DATASETS.values():
        for train, test in data.counts.values():
            assert f"| {train:,} / {test:,}" in README
