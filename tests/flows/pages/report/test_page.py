"""The page: one file that needs nothing else, shows what there is, and lets no name out of its place."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli.main import main
from flows.config import read_config
from flows.evaluate import evaluate
from flows.options import EvaluateOptions, PretrainOptions
from flows.pages.player import HIDDEN
from flows.pages.report import write_report
from flows.pages.report.views import VIEW_NOTES
from flows.pages.web import assets
from flows.pretrain import pretrain, read_run
from models.evaluation.results import read_results, write_results
from models.training.runlog import LOG, read_log
from shards.errors import ConfigError, SkelstreamError
from shards.manifest import Outcome, read_manifest, write_manifest
from tests.flows.conftest import METHOD
from tests.flows.reading import Page

HOSTILE = "</pre><script>alert('x')</script>&\"$\\frac"
SECTIONS = ["benchmark", "curves", "classes", "levels", "space", "views", "data", "scores", "provenance"]


@pytest.fixture(scope="module")
def told(options: Callable[..., PretrainOptions], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a probe, with results and with its report."""
    folder = tmp_path_factory.mktemp("told") / "run"
    pretrain(options(folder, "train.probe_every=1"))
    evaluate(EvaluateOptions(run=folder, overrides=("linear.epochs=2", "linear.batch_size=16"), device="cpu"))
    return write_report([folder], folder / "report.html").parent


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without exhibits, which take a second each."""
    monkeypatch.setattr("flows.pages.report.page.gather", lambda runs: {"runs": [], "pools": {}})


def data_of(path: Path) -> dict[str, Any]:
    """What the page's script is given."""
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', path.read_text("utf-8"))
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(told: Path) -> Page:
    return read(told / "report.html")


def test_the_page_is_one_file_that_asks_for_no_other(told: Path, page: Page) -> None:
    text = (told / "report.html").read_text(encoding="utf-8")
    for script in assets().scripts:  # tests of the player look at these
        assert script in text
        text = text.replace(script, "")
    assert set(re.findall(r"\w+://[^\s\"'<>]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert not page.tags.keys() & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert "url(" not in text
    assert "@import" not in text
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\"" in text


def test_the_page_is_a_whole_html_document(told: Path, page: Page) -> None:
    text = (told / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert [page.tags[tag] for tag in ("html", "head", "body", "h1", "main", "nav")] == [1] * 6
    assert '<meta charset="utf-8">' in text
    assert text.partition("</head>")[0].count("<title>") == 1


def test_the_page_shows_every_score(told: Path, page: Page) -> None:
    rows = [row for path in sorted((told / "results").glob("*.json")) for row in read_results(path)]
    assert len(rows) == 5
    for row in rows:
        assert row.subject in page.text
        assert f"{100 * row.scores['accuracy']:.1f} %" in page.text
    text = (told / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<section class="task" data-task="(\w+)">', text) == ["linear", "retrieval"]


def test_every_section_is_in_the_navigation(told: Path, page: Page) -> None:
    text = (told / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)" aria-labelledby="h-\1">\n<h2 id="h-\1">', text) == SECTIONS
    assert re.findall(r'<li><a href="#(\w+)">', text) == SECTIONS
    assert len(set(page.ids)) == len(page.ids)


def test_the_page_says_what_the_run_was(told: Path, page: Page) -> None:
    record, config = read_run(told), read_config(told / "config.json")
    assert f"{METHOD} on ntu60 xview, joint" in page.text
    for fact in (record.fingerprint, record.revision, "hidden 8", "2 epochs, batch 8"):
        assert fact in page.text
    assert config.model_dump_json(indent=2) in page.text


def test_the_page_draws_curves_and_confusions(told: Path, page: Page) -> None:
    for title in ("loss terms, weighted", "online score, %", "effective rank of the features", "linear: reliability"):
        assert title in page.text
    assert page.tags["figure"] == 9 + 1
    assert "post-distillation" not in page.text
    (matrix,) = data_of(told / "report.html")["pictures"]
    assert len(base64.b64decode(matrix["shares"])) == 60 * 60


def test_the_page_names_what_was_left_out(page: Page, store: Path) -> None:
    (dropped,) = read_manifest(store).dropped
    assert "1 dropped" in page.text
    assert dropped.key in page.text


def joints(told: Path) -> dict[str, tuple[int, int]]:
    """Of each view how many joints are drawn in all its frames, and how many of them as hidden."""
    (kind,) = data_of(told / "report.html")["kinds"]
    found = {}
    for view in kind["sequences"]:
        shape = (view["count"], view["persons"], 25)
        values = np.frombuffer(base64.b64decode(view["data"]), "<i2").reshape(*shape, 3)
        state = np.frombuffer(base64.b64decode(view["state"]), "u1") if "state" in view else np.zeros(1, "u1")
        found[view["title"]] = int(values.any(axis=-1).sum()), int((state & HIDDEN > 0).sum())
    return found


def test_a_masked_view_shows_fewer_joints_than_its_target(told: Path) -> None:
    shown = joints(told)
    assert list(shown) == ["stored sample", *(view for view in shown if view in VIEW_NOTES)]
    assert set(shown) == {"stored sample", *VIEW_NOTES} - {"query"}  # which is of other methods
    for hiding, whole in (("masked", "target"), ("clip", "key")):
        assert 0 < shown[hiding][0] < shown[whole][0]
        assert shown[hiding][1] > shown[whole][1] == 0


def test_equal_runs_give_equal_bytes(told: Path, tmp_path: Path) -> None:
    again = write_report([told], tmp_path / "deep" / "again.html")
    assert again.read_bytes() == (told / "report.html").read_bytes()


@pytest.mark.usefixtures("plain")
def test_a_run_without_results_or_epochs_says_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / LOG).unlink()
    page = read(write_report([tmp_path / "run"], tmp_path / "report.html"))
    for said in ("No results yet", "No finished epoch yet", "No scores by class yet", "Not measured yet"):
        assert said in page.text
    assert page.tags["figure"] == 0


@pytest.mark.usefixtures("plain")
def test_hostile_names_stay_text(told: Path, store: Path, tmp_path: Path) -> None:
    run, data = tmp_path / HOSTILE.replace("/", ""), tmp_path / store.name
    shutil.copytree(told, run)
    shutil.copytree(store, data)
    outcomes = [Outcome(key=HOSTILE, reason=HOSTILE)]
    write_manifest(data, read_manifest(data).model_copy(update={"dropped": outcomes, "repaired": outcomes}))
    record = json.loads((run / "run.json").read_text()) | {"store": str(data), "revision": HOSTILE}
    (run / "run.json").write_text(json.dumps(record))
    rows = read_results(run / "results" / "retrieval.json")
    write_results(
        run / "results" / "retrieval.json",
        [row.model_copy(update={"setting": {HOSTILE: HOSTILE}, "options": {"metric": HOSTILE}}) for row in rows],
    )
    lines = [line | {"terms": {HOSTILE: 1.0}} for line in read_log(run)]
    (run / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    hostile = read(write_report([run], tmp_path / "report.html", title=HOSTILE))
    benign = read(write_report([told], tmp_path / "benign.html"))
    assert hostile.tags["script"] == benign.tags["script"]
    assert hostile.text.count(HOSTILE) >= 2 + 3 + 3 + 1 + 2


@pytest.mark.usefixtures("plain")
def test_a_store_that_is_gone_or_another_is_told_and_the_rest_is_shown(
    told: Path, other_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(told, tmp_path / "run")
    record = json.loads((told / "run.json").read_text())
    for store, message in ((tmp_path / "none", "no such folder"), (other_store, "found fingerprint")):
        (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"store": str(store)}))
        text = read(write_report([tmp_path / "run"], tmp_path / "report.html")).text
        assert text.count(message) == 2
        assert "the store is not there any more" in text
        assert "loss terms, weighted" in text
        assert data_of(tmp_path / "report.html")["kinds"] == [{"skeleton": {}, "sequences": []}]


@pytest.mark.usefixtures("plain")
def test_what_cannot_be_shown_is_refused_and_leaves_no_page(told: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "report.html"
    with pytest.raises(ConfigError, match=r"config\.json"):
        write_report([tmp_path], out)
    with pytest.raises(ConfigError, match="--out: found the folder"):
        write_report([told], tmp_path)
    shutil.copytree(told, run)
    shutil.copy(run / "results" / "retrieval.json", run / "results" / "linear.json")
    with pytest.raises(SkelstreamError, match=r"linear\.json: found a result of the task 'retrieval', expected linear"):
        write_report([run], out)
    assert not out.exists()


@pytest.fixture(scope="module")
def three(told: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The run, the same of another seed, and one of another stream without results."""
    folder = tmp_path_factory.mktemp("three")
    for name, source, changes in (("b", told, {"seed": 7}), ("c", run, {"streams": ["bone"]})):
        shutil.copytree(source, folder / name)
        tree = json.loads((folder / name / "config.json").read_text())
        for part in ("train", "data"):
            tree[part] |= {key: value for key, value in changes.items() if key in tree[part]}
        (folder / name / "config.json").write_text(json.dumps(tree))
    return [told, folder / "b", folder / "c"]


@pytest.mark.usefixtures("plain")
def test_several_runs_are_one_page_that_pools_seeds_and_keeps_each_run_to_open(
    three: list[Path], tmp_path: Path
) -> None:
    out = write_report(three, tmp_path / "report.html")
    page, text = read(out), out.read_text(encoding="utf-8")
    assert f"{METHOD} on ntu60 xview, 2 streams (joint, bone)" in page.text
    assert "3 runs, 2 seeds (0, 7), 2 epochs each" in page.text
    assert "1 of them without results." in page.text
    (accuracy,) = [r.scores["accuracy"] for r in read_results(three[0] / "results" / "linear.json")[:1]]
    table = text.partition('<table class="figures sortable">')[2].partition("</table>")[0]
    assert re.findall(r"</i>([\w, +-]+) <small", table) == [f"{METHOD}, joint"]
    assert "2 seeds" in table
    assert f"{100 * accuracy:.1f} <small>&pm; 0.0" in table
    # what belongs to one run is there, but made when it is opened
    closed = re.findall(r'<details class="lazy box"><summary>([^<]*)</summary><template>', text)
    assert closed == [f"{METHOD}, joint, seed 0", f"{METHOD}, joint, seed 7"]
    assert f"{METHOD}, bone, seed 0: no results yet" in page.text
    options = re.findall(r'<option value="([\d ]+)">(stream|seed|run)</option>', text)
    assert options[:3] == [("0 0 1", "stream"), ("0 1 0", "seed"), ("0 1 2", "run")]
    assert text.count('data-run="2"><path') >= 9
    assert len(data_of(out)["kinds"]) == 2
    assert f"{three[0].name}</dd>" in text


@pytest.mark.usefixtures("plain")
def test_the_command_asks_for_the_name_of_a_page_about_several_runs(
    three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *map(str, three)]) == 1
    assert "--out: found none beside 3 runs, expected the name of the page" in capsys.readouterr().err
    out = tmp_path / "all.html"
    assert main(["report", *map(str, three), "--out", str(out), "--title", "Ours"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text(encoding="utf-8")
    assert "<h1>Ours</h1>" in text
    assert f'<p class="lead">{METHOD} on ntu60 xview, 2 streams (joint, bone). 3 runs, ' in text
