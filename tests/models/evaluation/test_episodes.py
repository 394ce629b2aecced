from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from models.evaluation.episodes import OFFICIAL_CLASSES, EpisodeConfig, Episodes, draw_episodes
from models.evaluation.episodes import write_episodes as write
from shards.catalog import DATASETS
from shards.errors import ConfigError

SMALL = EpisodeConfig(ways=3, shots=(1, 4), queries=5, episodes=12)


def split(classes: int = 6, each: int = 11) -> tuple[Tensor, Tensor]:
    """Ids that do not begin at 0 nor follow one another, and labels."""
    label = torch.arange(classes).repeat(each)
    return 1000 + 7 * torch.arange(len(label)), label


def equal(first: Episodes, second: Episodes) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


@given(
    ways=st.integers(2, 4),
    shots=st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True),
    queries=st.integers(1, 4),
    classes=st.integers(4, 7),
    spare=st.integers(0, 3),
    seed=st.integers(0, 1 << 20),
)
def test_episodes_hold_different_classes_and_different_samples_of_just_these(
    ways: int, shots: list[int], queries: int, classes: int, spare: int, seed: int
) -> None:
    config = EpisodeConfig(ways=ways, shots=tuple(shots), queries=queries, episodes=4, seed=seed)
    ids, label = split(classes, max(shots) + queries + spare)
    found = draw_episodes(ids, label, config)
    assert found.classes.shape == (4, ways)
    assert found.support.shape == (4, ways, max(shots))
    assert found.query.shape == (4, ways, queries)
    class_of = dict(zip(ids.tolist(), label.tolist(), strict=True))
    for chosen, support, query in zip(found.classes, found.support, found.query, strict=True):
        assert len(set(chosen.tolist())) == ways
        samples = [*support.ravel().tolist(), *query.ravel().tolist()]
        assert len(set(samples)) == ways * (max(shots) + queries)
        for one, members in zip(chosen, np.concatenate([support, query], axis=1), strict=True):
            assert {class_of[sample] for sample in members.tolist()} == {one}


@given(seed=st.integers(0, 1 << 20), order=st.integers(0, 1 << 20))
def test_episodes_depend_on_the_seed_and_not_on_the_order_of_the_rows(seed: int, order: int) -> None:
    config = SMALL.model_copy(update={"seed": seed})
    ids, label = split()
    shuffled = torch.randperm(len(ids), generator=torch.Generator().manual_seed(order))
    drawn = draw_episodes(ids, label, config)
    assert equal(drawn, draw_episodes(ids[shuffled], label[shuffled], config))
    assert not equal(drawn, draw_episodes(ids, label, config.model_copy(update={"seed": seed + 1})))


def test_every_class_and_every_sample_is_drawn_about_equally_often() -> None:
    ids, label = split(classes=6, each=10)
    found = draw_episodes(ids, label, SMALL.model_copy(update={"episodes": 2000}))
    # expected 1000 of each class, 400 and 500 of each sample, standard deviations of about 22 and less
    assert np.abs(np.bincount(found.classes.ravel()) - 1000).max() < 120
    for drawn, expected in ((found.support, 400), (found.query, 500)):
        counts = np.unique(drawn, return_counts=True)[1]
        assert len(counts) == 60
        assert np.abs(counts - expected).max() < 120
    assert len(np.unique(found.support[..., 0])) == 60


def test_without_a_list_the_official_classes_are_drawn_from_or_all_where_there_are_none() -> None:
    ids, label = split(classes=120, each=6)
    config = EpisodeConfig(ways=5, shots=(1,), queries=5, episodes=200)
    official = draw_episodes(ids, label, config, "ntu120")
    assert set(official.classes.ravel().tolist()) == set(OFFICIAL_CLASSES["ntu120"])
    assert len(np.unique(draw_episodes(ids, label, config, "ntu60").classes)) == 120
    own = config.model_copy(update={"classes": (7, 3, 60, 2, 9)})
    assert set(draw_episodes(ids, label, own, "ntu120").classes.ravel().tolist()) == {2, 3, 7, 9, 60}


def test_the_official_classes_are_23_of_the_data_sets_and_new_in_ntu_120() -> None:
    assert set(OFFICIAL_CLASSES) <= set(DATASETS)
    listed = OFFICIAL_CLASSES["ntu120"]
    assert len(listed) == len(set(listed)) == 23
    assert min(listed) >= DATASETS["ntu60"].num_classes
    assert max(listed) < DATASETS["ntu120"].num_classes


def test_the_defaults_are_the_published_setting() -> None:
    config = EpisodeConfig()
    assert (config.ways, config.shots, config.queries, config.episodes) == (5, (1, 5), 15, 3000)


def test_what_cannot_be_drawn_is_refused_by_name() -> None:
    ids, label = split(classes=6, each=11)
    with pytest.raises(ConfigError, match=r"found 2 classes to draw from, expected 3 or more"):
        draw_episodes(ids, label, SMALL.model_copy(update={"classes": (1, 2)}))
    with pytest.raises(ConfigError, match=r"found 0 classes to draw from, expected 3 or more"):
        draw_episodes(ids[:0], label[:0], SMALL)
    with pytest.raises(ConfigError, match=r"found no samples of classes \[6, 9\], expected classes among"):
        draw_episodes(ids, label, SMALL.model_copy(update={"classes": (1, 9, 6, 2)}))
    keep = torch.ones(len(ids), dtype=torch.bool)
    keep[(label == 4).nonzero()[:3, 0]] = False
    with pytest.raises(ConfigError, match=r"class 4: found 8 samples, expected 9 or more \(4 shots and 5 queries\)"):
        draw_episodes(ids[keep], label[keep], SMALL)
    ids[5] = ids[3]
    with pytest.raises(ConfigError, match=r"found sample 1021 twice"):
        draw_episodes(ids, label, SMALL)


@pytest.mark.parametrize(
    "options",
    [{"shots": (1, 1)}, {"classes": (3, 3)}, {"classes": (-1, 3)}, {"ways": 1}, {"episodes": 1}, {"shots": ()}],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EpisodeConfig.model_validate(options)


def test_equal_episodes_are_equal_bytes_that_numpy_reads(tmp_path: Path) -> None:
    drawn = draw_episodes(*split(), SMALL)
    for name in ("a", "b.npz"):
        write(tmp_path / name, drawn)
        with np.load(tmp_path / name) as arrays:
            assert equal(Episodes(**arrays), drawn)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.npz"]
