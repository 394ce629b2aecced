"""Samples as a page holds them: their frames, once each, and no body that is not there."""

import base64
from pathlib import Path

import numpy as np
import pytest

from flows.pages.report.pool import FRAMES, Pool, bodies, moments, read_items
from pipelines.loaders.labels import sample_facts
from pipelines.loaders.split import open_split
from shards.manifest import read_manifest


@pytest.mark.parametrize("length", [1, 2, 3, FRAMES - 1, FRAMES, FRAMES + 1, 100, 299])
def test_frames_are_taken_evenly_from_the_first_to_the_last(length: int) -> None:
    count = min(FRAMES, length)
    # the nearest whole number, halves upwards, in exact fractions
    expected = [0] if count == 1 else [int(i * (length - 1) / (count - 1) + 0.5) for i in range(count)]
    assert moments(length).tolist() == expected


def test_a_body_counts_up_to_the_last_one_who_is_there() -> None:
    frames = np.zeros((3, 2, 25, 3), np.float32)
    assert bodies(frames) == 1
    frames[0, 0] = 1
    assert bodies(frames) == 1
    frames[2, 1, 24, 0] = 1
    assert bodies(frames) == 2


def test_a_pool_holds_the_stored_frames_of_each_sample_once(store: Path) -> None:
    split = open_split(store, "ntu60", "xview", "test")
    facts = sample_facts(split)
    pool = Pool(read_manifest(store))
    pool.add(split, facts, facts.sample_id[:3])
    pool.add(split, facts, facts.sample_id[1:5])
    told = pool.as_json()
    assert told["skeleton"]["up"] == 2  # the recipe turns the spine to z
    assert list(told["samples"]) == [str(name) for name in sorted(facts.sample_id[:5])]
    for item in read_items(split, facts, facts.sample_id[:5]):
        found, row = told["samples"][str(item.sample_id)], facts.sample_id.tolist().index(item.sample_id)
        shape = (found["count"], found["bodies"], 25, 3)
        values = np.frombuffer(base64.b64decode(found["data"]), "<i2").reshape(shape) / 1000
        picked = item.frames[moments(len(item.frames))]
        np.testing.assert_allclose(values, picked[:, : found["bodies"]], atol=0.00051)
        assert not picked[:, found["bodies"] :].any()
        expected = (facts.key[row], facts.label[row], facts.subject[row], facts.camera[row], facts.length[row])
        assert tuple(found[name] for name in ("key", "label", "subject", "camera", "length")) == expected
