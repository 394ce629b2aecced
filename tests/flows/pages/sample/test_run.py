"""What a run makes of one sample: a prediction, the nearest training samples, words where there is none."""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flows.config import read_config
from flows.pages.player import HIDDEN, MIXED
from flows.pages.sample.page import ViewRequest, write_view
from flows.pages.sample.run import Group, run_groups
from models.evaluation.feature_store import ABOUT
from pipelines.loaders.sample import Found, find_sample
from shards.manifest import STORE, read_manifest
from shards.reader import read_index
from shards.skeleton import NUM_JOINTS
from shards.store import open_store


def samples(store: Path, side: str) -> list[Found]:
    manifest = read_manifest(store)
    shards = [one for one in manifest.shards if manifest.cells[one.cell].memberships.get("ntu60/xview") == side]
    return [find_sample(store, key) for shard in shards for key in read_index(store / shard.path).keys]


def groups(run: Path, found: Found) -> list[Group]:
    return run_groups(run, read_config(run / "config.json"), found)


def millimetres(sequence: dict[str, Any]) -> npt.NDArray[np.int16]:
    shape = (sequence["count"], sequence["persons"], NUM_JOINTS, 3)
    return np.frombuffer(base64.b64decode(sequence["data"]), "<i2").reshape(shape)


def test_the_prediction_differs_from_the_truth_where_joints_are_hidden_alone(run: Path, store: Path) -> None:
    for found in (samples(store, "test")[1], samples(store, "train")[0]):
        group = groups(run, found)[0]
        sees, predicted, truth = group.sequences
        state, mixed = (np.frombuffer(base64.b64decode(one["state"]), np.uint8) for one in (sees, predicted))
        assert set(state.tolist()) == {0, HIDDEN}
        np.testing.assert_array_equal(mixed, np.where(state == HIDDEN, MIXED, 0))
        other = (millimetres(predicted) != millimetres(truth)).any(axis=-1).ravel()
        assert not other[state == 0].any()
        assert other[state == HIDDEN].mean() > 0.9
        assert sees["ghost"] == truth["data"]
        share = re.match(r"(\d+)% of the joints are hidden", group.words)
        assert share is not None
        assert 0 < int(share[1]) < 100


def test_the_neighbours_are_the_nearest_by_cosine_of_the_features_kept(scored: Path, store: Path) -> None:
    tables = {path.parent: json.loads(path.read_text())["about"] for path in (scored / "features").glob(f"*/{ABOUT}")}
    kept = {about["side"]: folder for folder, about in tables.items() if "checkpoint_sha256" in about["encoder"]}
    assert set(kept) == {"train", "test"}
    values, ids = ({side: np.load(kept[side] / f"{name}.npy") for side in kept} for name in ("values", "sample_id"))
    infos = open_store(store / STORE).infos
    for found in samples(store, "test")[:3]:
        group = groups(scored, found)[1]
        own = values["test"][ids["test"] == found.number][0].astype(float)
        gallery = values["train"].astype(float)
        cosines = gallery @ own / np.linalg.norm(gallery, axis=1) / np.linalg.norm(own)
        best = np.argsort(-cosines, kind="stable")[:5]
        first, *near = group.sequences
        assert first["lines"] == [found.index.keys[found.row]]
        assert [float(one["title"].removeprefix("similarity ")) for one in near] == pytest.approx(
            cosines[best].tolist(), abs=6e-4
        )
        assert near[0]["lines"] == [infos[ids["train"][best[0]]].key]
        for one in near:
            assert one["tone"] == ("right" if one["caption"] == first["caption"] else "wrong")
        assert f"of {len(gallery):,} training samples" in group.words


def test_the_page_of_a_run_has_both_groups_and_says_what_is_missing(run: Path, store: Path, tmp_path: Path) -> None:
    found = samples(store, "test")[0]
    request = ViewRequest(store, found.index.keys[found.row], str(run))
    text = write_view(request, tmp_path / "page.html").read_text()
    assert text.count('<div class="group"') == 2
    assert "No features of this checkpoint are kept yet: skelstream evaluate keeps them." in text
    plain = write_view(ViewRequest(store, request.key), tmp_path / "plain.html").read_text()
    assert '<div class="group"' not in plain


def test_a_sample_of_another_store_is_told_in_words(run: Path, other_store: Path) -> None:
    manifest = read_manifest(other_store)
    found = find_sample(other_store, read_index(other_store / manifest.shards[0].path).keys[0])
    for group in groups(run, found):
        assert group.sequences == []
        assert "found another store" in group.words


def test_a_run_without_a_checkpoint_has_no_groups(run: Path, store: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.json", tmp_path)
    assert groups(tmp_path, samples(store, "test")[0]) == []
