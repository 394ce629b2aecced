"""The exhibits of runs: the same for the same runs, of one seed each, and in words where something is missing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, PackageLoader, select_autoescape

from flows.pages.report.gather import FEWEST, gather, shared
from shards.errors import ConfigError


def test_equal_runs_give_equal_exhibits_and_nothing_is_written(scored: Path, told: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in scored.rglob("*")}
    assert json.dumps(gather([scored], queries=4)) == json.dumps(told)
    assert {path: path.stat().st_mtime_ns for path in scored.rglob("*")} == before


def test_every_sample_that_is_shown_is_in_the_pool(told: dict[str, Any]) -> None:
    (run,) = told["runs"]
    samples = told["pools"][run["pool"]]["samples"]
    queries = run["neighbours"]["queries"]
    neighbours = {one[0] for query in queries for near in query["near"].values() for one in near}
    assert {str(one) for one in [*run["maps"]["ids"], *neighbours]} == samples.keys()
    assert [one["id"] for one in run["prediction"]["samples"]] == [query["id"] for query in queries[:3]]
    assert {samples[str(one)]["camera"] for one in neighbours} == {2, 3}  # xview trains on these
    for of in run["maps"]["of"].values():
        assert len(of["pca"]) == len(of["tsne"]) == 2 * len(run["maps"]["ids"])
        assert of["near"] is None or len(of["near"]) == len(run["maps"]["ids"])


def test_runs_that_differ_in_the_seed_alone_are_shown_once_and_others_each(scored: Path, tmp_path: Path) -> None:
    copies = []
    for name, change in (("again", {"seed": 7}), ("longer", {"epochs": 9})):
        copies.append(tmp_path / name)
        shutil.copytree(scored, copies[-1])
        config = json.loads((scored / "config.json").read_text())
        config["train"] |= change
        (copies[-1] / "config.json").write_text(json.dumps(config))
    told = gather([scored, *copies], samples=8, queries=2)
    assert [(run["folder"], run["seeds"]) for run in told["runs"]] == [("run", [0, 7]), ("longer", [0])]
    first, second = (run["maps"] for run in told["runs"])
    assert first["ids"] == second["ids"]
    assert first["of"]["coordinates"] == second["of"]["coordinates"]


def test_a_store_or_checkpoint_that_is_gone_is_said_in_words(scored: Path, tmp_path: Path) -> None:
    moved, bare = tmp_path / "moved", tmp_path / "bare"
    for folder in (moved, bare):
        shutil.copytree(scored, folder)
    record = json.loads((moved / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps(record | {"store": str(tmp_path / "nowhere"), "also": ["other"]}))
    shutil.rmtree(bare / "checkpoints")
    first, second = gather([moved, bare])["runs"]
    assert "nowhere: found no such folder" in first["missing"]
    assert "found no checkpoint" in second["missing"]
    assert "maps" not in first


def test_more_than_two_benchmarks_share_the_samples_of_two() -> None:
    assert [shared(300, benchmarks) for benchmarks in (0, 1, 2, 3, 4, 100)] == [300, 300, 300, 200, 150, FEWEST]
    assert shared(12, 100) == 12


def test_fewer_samples_are_some_of_those_of_more(told: dict[str, Any], scored: Path) -> None:
    (run,) = gather([scored], samples=8, queries=2)["runs"]
    assert len(run["maps"]["ids"]) == 8
    assert set(run["maps"]["ids"]) <= set(told["runs"][0]["maps"]["ids"])
    assert len(run["neighbours"]["queries"]) == 2


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        gather([tmp_path])


def test_the_partial_holds_what_it_is_given_and_nothing_that_ends_a_script(told: dict[str, Any]) -> None:
    environment = Environment(loader=PackageLoader("flows.pages"), autoescape=select_autoescape(), trim_blocks=True)
    hostile = json.loads(json.dumps(told))
    hostile["runs"][0]["folder"] = "</script><img src=x>"
    page = environment.get_template("exhibits.html").render(exhibits=hostile)
    assert page.count("</script>") == 2
    assert "<img" not in page
    data = page.split('id="exhibits-data">')[1].split("</script>")[0]
    assert json.loads(data) == hostile
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
