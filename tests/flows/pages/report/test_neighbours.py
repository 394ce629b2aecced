"""Nearest training samples against a sort of all cosines, and the queries that are picked."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.config import read_config
from flows.pages.report import neighbours
from flows.pages.report.features import features_of, open_bench
from flows.pages.report.neighbours import Nearest, drawn, find_nearest, pick_queries
from flows.run_folder import read_run
from flows.tasks.bench import Bench


def bench_of(run: Path) -> Bench:
    return open_bench(run, read_config(run / "config.json"), read_run(run))


def nearest(label: list[int], first: list[int]) -> Nearest:
    """Samples 100, 101, ... of these classes, whose nearest neighbour is of the class in `first`."""
    labels = np.array(first)[:, None]
    return Nearest(100 + np.arange(len(label)), np.array(label), labels, labels, labels / 1.0, 1, 1)


def test_what_an_evaluation_kept_is_found_again_and_equals_what_would_be_extracted(scored: Path, run: Path) -> None:
    bench, bare = bench_of(scored), bench_of(run)
    ids = drawn(bench.benchmark.facts("test").sample_id, 5, seed=0)
    for subject in ("trained", "random encoder"):
        assert bench.kept("test", subject) is not None
        assert bare.kept("test", subject) is None
        found, extracted = features_of(bench, "test", subject, ids), features_of(bare, "test", subject, ids)
        assert found.sample_id.tolist() == extracted.sample_id.tolist()
        np.testing.assert_allclose(found.values, extracted.values, atol=1e-6)


def test_neighbours_are_the_training_samples_of_the_largest_cosines(scored: Path) -> None:
    bench = bench_of(scored)
    ids = drawn(bench.benchmark.facts("test").sample_id, 6, seed=0)
    query = features_of(bench, "test", "trained", ids)
    found = find_nearest(bench, "trained", query, seed=0)
    gallery = bench.kept("train", "trained")
    assert found is not None
    assert gallery is not None
    assert found.searched == found.total == len(gallery)
    rows = [x.values.double().numpy() / np.linalg.norm(x.values.double(), axis=1)[:, None] for x in (query, gallery)]
    for row, cosines in enumerate(rows[0] @ rows[1].T):
        order = np.argsort(-cosines, kind="stable")[: neighbours.COUNT]
        assert found.ids[row].tolist() == gallery.sample_id[order].tolist()
        np.testing.assert_allclose(found.similarity[row], cosines[order], atol=1e-9)
        assert found.of(int(query.sample_id[row]))[0] == [int(gallery.sample_id[order[0]]), round(cosines[order[0]], 3)]
        assert found.right[row] == (gallery.label[order[0]] == query.label[row])


def test_without_kept_features_a_drawn_gallery_is_searched_and_nothing_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    before = sorted(own.rglob("*"))
    monkeypatch.setattr(neighbours, "GALLERY", 7)
    bench = bench_of(own)
    query = features_of(bench, "test", "trained", drawn(bench.benchmark.facts("test").sample_id, 3, seed=0))
    found = find_nearest(bench, "trained", query, seed=0)
    assert found is not None
    assert (found.searched, found.total) == (7, len(bench.benchmark.facts("train")))
    assert find_nearest(bench, "random encoder", query, seed=0) is None
    assert sorted(own.rglob("*")) == before


def test_drawn_ids_are_rising_of_the_seed_and_not_of_their_order() -> None:
    ids = np.arange(50) * 3
    found = drawn(ids, 10, seed=4)
    assert found.tolist() == sorted(set(found.tolist()))
    assert np.isin(found, ids).all()
    assert drawn(ids[::-1], 10, seed=4).tolist() == found.tolist()
    assert drawn(ids, 10, seed=5).tolist() != found.tolist()
    assert drawn(ids, 99, seed=4).tolist() == ids.tolist()


def test_half_of_the_queries_are_mistakes_and_the_others_of_different_classes() -> None:
    label = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]
    found = nearest(label, [0, 0, 0, 1, 1, 1, 1, 2, 0, 3])
    for seed in range(20):
        queries = pick_queries(found, 4, seed)
        ids = [query["id"] for query in queries]
        assert len(set(ids)) == 4
        at_random = [query["id"] for query in queries if query["drawn"] == "at random"]
        assert len({label[one - 100] for one in at_random}) == len(at_random) >= 2
        mistakes = [query["id"] for query in queries if query["drawn"] == "among the mistakes"]
        assert set(mistakes) <= {103, 108}


def test_where_nothing_is_wrong_all_queries_are_drawn_at_random() -> None:
    found = nearest([0, 1, 2], [0, 1, 2])
    queries = pick_queries(found, 5, seed=0)
    assert sorted(query["id"] for query in queries) == [100, 101, 102]
    assert {query["drawn"] for query in queries} == {"at random"}
