"""The report: one file that needs nothing else, shows what there is, and lets no name out of its place."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flows.config import read_config
from flows.drawing import curves
from flows.evaluate import EvaluateOptions, evaluate
from flows.pretrain import PretrainOptions, pretrain, read_run
from flows.report import VIEW_NOTES, run_curves, write_report
from models.evaluation.results import read_results, write_results
from models.training.runlog import LOG, read_log
from shards.errors import ConfigError, SkelstreamError, StoreError
from shards.manifest import Outcome, read_manifest, write_manifest

HOSTILE = "</pre><script>alert('x')</script>&\"$\\frac"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a page consists of; asserts that its tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def told(options: Callable[..., PretrainOptions], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a probe, with results and with its report."""
    folder = tmp_path_factory.mktemp("told") / "run"
    pretrain(options(folder, "train.probe_every=1"))
    evaluate(EvaluateOptions(run=folder, overrides=("linear.epochs=2", "linear.batch_size=16"), device="cpu"))
    return write_report(folder, folder / "report.html").parent


@pytest.fixture(scope="module")
def page(told: Path) -> Page:
    return Page(told / "report.html")


def test_the_page_is_one_file_that_asks_for_no_other(told: Path, page: Page) -> None:
    text = (told / "report.html").read_text(encoding="utf-8")
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"\w+://[^\s\"'<>]*", text)) <= namespaces
    assert all(link.startswith("#") for link in page.links)
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert "url(" not in re.sub(r"url\(#\w+\)", "", text)
    assert "@import" not in text


def test_the_page_is_a_whole_html_document(told: Path, page: Page) -> None:
    text = (told / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert [page.tags[tag] for tag in ("html", "head", "title", "body", "h1")] == [1] * 5
    assert '<meta charset="utf-8">' in text


def test_the_page_shows_every_score(told: Path, page: Page) -> None:
    rows = [row for path in sorted((told / "results").glob("*.json")) for row in read_results(path)]
    assert len(rows) == 5
    for row in rows:
        assert row.subject in page.text
        assert f"{100 * row.scores['accuracy']:.1f} %" in page.text
    text = (told / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', text) == ["linear", "retrieval"]


def test_the_page_says_what_the_run_was(told: Path, page: Page) -> None:
    record, config = read_run(told), read_config(told / "config.json")
    assert "pcm3pp on ntu60 xview, joint" in page.text
    for fact in (record.fingerprint, record.revision, "hidden 8", "2 epochs, batch 8"):
        assert fact in page.text
    assert config.model_dump_json(indent=2) in page.text


SCORES = ("linear: confusions, share of a class", "linear: reliability, expected calibration error")
CURVES = (
    "loss terms, weighted",
    "queries nearest to their own key, %",
    "online score, %",
    "spread of the normalised features",
    "effective rank of the features",
    "gradient norm",
    "learning rate",
    "samples a second",
    "time that waited for data, %",
)


def test_the_page_draws_curves_sequences_and_every_view(page: Page) -> None:
    for title in (*SCORES, *CURVES):
        assert title in page.text
    for name, note in VIEW_NOTES.items():
        assert f"{name}: {note}" in page.text
    assert len(re.findall(r"class \d+, sample \d+", page.text)) == 3
    assert page.tags["svg"] == page.tags["figure"] == len(SCORES) + len(CURVES) + 3 + len(VIEW_NOTES)
    assert "post-distillation" not in page.text


def test_a_log_of_an_older_version_is_drawn_as_far_as_it_goes(told: Path, tmp_path: Path) -> None:
    new = ("metrics", "queue_age", "stalled", "memory_gb")
    first, *others = read_log(told)
    old = {name: value for name, value in first.items() if name not in new}
    for lines, drawn in (([old], {0, 2, 6, 7}), ([old, *others], set(range(len(CURVES))))):
        (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
        text = "".join(run_curves(tmp_path, epochs=2))
        assert {number for number, title in enumerate(CURVES) if title in text} == drawn


def test_the_curves_show_where_post_distillation_begins(told: Path) -> None:
    for epochs, marked in ((2, 0), (1, len(CURVES))):
        shown = [">post-distillation<" in curve for curve in run_curves(told, epochs)]
        assert (sum(shown), len(shown)) == (marked, len(CURVES))


def test_an_epoch_without_a_value_leaves_its_line_out_there() -> None:
    nothing = float("nan")
    with_gap, without = (curves({"a": [1.0, 2.0, 3.0], "b": b}, "loss") for b in ([nothing, 2.0, nothing], [2.0] * 3))
    # a point where the only value is, instead of a line
    assert re.search(r'<use [^>]*style="fill: #ff7f0e', with_gap)
    assert not re.search(r'<use [^>]*style="fill: #ff7f0e', without)


def test_the_page_names_what_was_left_out(page: Page, store: Path) -> None:
    (dropped,) = read_manifest(store).dropped
    assert "1 dropped" in page.text
    assert dropped.key in page.text


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.2], [0.1, 0.2, 0.3]])
def test_epochs_are_whole_numbers_from_one_on(values: list[float]) -> None:
    axis = curves({"loss": values}, "loss").partition(">epoch<")[0]
    ticks = re.findall(r">([^<>\n]+)</text>", axis)
    assert ticks == [str(epoch) for epoch in range(1, len(values) + 1)]


def test_a_single_epoch_is_a_point() -> None:
    coloured = r'<use [^>]*style="fill: #1f77b4'
    assert re.search(coloured, curves({"loss": [1.0]}, "loss"))
    assert not re.search(coloured, curves({"loss": [1.0, 2.0]}, "loss"))


def test_a_masked_view_shows_fewer_joints_than_its_target(told: Path) -> None:
    text = (told / "report.html").read_text(encoding="utf-8")
    pictures = {
        name: text[: text.index(f"<figcaption>{name}:")].rpartition("<figure>")[2].count("<use") for name in VIEW_NOTES
    }
    assert 0 < pictures["masked"] < pictures["target"]
    assert 0 < pictures["clip"] < pictures["key"]


def test_equal_runs_give_equal_bytes(told: Path, tmp_path: Path) -> None:
    again = write_report(told, tmp_path / "deep" / "again.html")
    assert again.read_bytes() == (told / "report.html").read_bytes()


def test_a_run_without_results_or_epochs_says_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / LOG).unlink()
    page = Page(write_report(tmp_path / "run", tmp_path / "report.html"))
    assert "No results yet" in page.text
    assert "No finished epoch yet" in page.text
    assert page.tags["svg"] == 3 + len(VIEW_NOTES)


def test_hostile_names_stay_text(told: Path, store: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / store.name
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
    page = Page(write_report(run, tmp_path / "report.html"))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 2 + 3 + 3 + 1


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_store_that_is_gone_or_another_is_refused(run: Path, other_store: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    for store, message in ((tmp_path / "none", "no such folder"), (other_store, "found fingerprint")):
        (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"store": str(store)}))
        with pytest.raises(StoreError, match=message):
            write_report(tmp_path / "run", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_results_of_another_task_than_their_file_says_are_refused(told: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(told, run)
    shutil.copy(run / "results" / "retrieval.json", run / "results" / "linear.json")
    with pytest.raises(SkelstreamError, match=r"linear\.json: found a result of the task 'retrieval', expected linear"):
        write_report(run, tmp_path / "report.html")
