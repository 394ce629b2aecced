"""The page in a browser: its controls do what they say; `opened` checks that it is silent and asks for nothing."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.pages.report import write_report
from models.evaluation.results import write_results
from tests.flows.conftest import METHOD
from tests.flows.records import result

SECTIONS = ("benchmark", "curves", "classes", "levels", "space", "views", "data", "scores", "provenance")


def robust(level: float, accuracy: float, subject: str) -> Any:
    setting = {"curve": "noise", "level": level}
    return result("robustness", setting=setting, scores={"accuracy": accuracy}, subject=subject)


@pytest.fixture(scope="module")
def path(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three runs: two streams, one of them of two seeds, with scores made up."""
    folder = tmp_path_factory.mktemp("runs")
    for number, (stream, seed) in enumerate((("joint", 0), ("joint", 1), ("bone", 0))):
        copy = folder / f"run-{number}"
        shutil.copytree(run, copy)
        tree = json.loads((copy / "config.json").read_text())
        tree["train"]["seed"], tree["data"]["streams"] = seed, [stream]
        (copy / "config.json").write_text(json.dumps(tree))
        accuracy = 0.5 + 0.1 * number
        rows = [
            result("retrieval", subject=subject, scores={"accuracy": accuracy})
            for subject in ("trained", "coordinates")
        ]
        write_results(copy / "results" / "retrieval.json", rows)
        rows = [robust(level, accuracy - level, s) for level in (0.1, 0.2) for s in ("trained", "random encoder")]
        write_results(copy / "results" / "robustness.json", rows)
    return write_report(sorted(folder.iterdir()), folder / "report.html")


def visible(page: Any, chart: str) -> list[str]:
    """Names of the lines of a chart that are seen."""
    lines = page.locator("figure.chart", has_text=chart).first.locator(".trace")
    return [own.get_attribute("data-name") for own in lines.all() if own.is_visible()]


def test_lines_are_hidden_shown_lit_and_coloured_anew(opened: Callable[..., Any], path: Path) -> None:
    page = opened(path)
    names = [f"{METHOD}, joint, seed 0", f"{METHOD}, joint, seed 1", f"{METHOD}, bone, seed 0"]
    assert visible(page, "effective rank") == names
    button = page.locator("#curves button.run").nth(1)
    button.click()
    assert visible(page, "effective rank") == [names[0], names[2]]
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert visible(page, "effective rank") == names
    assert page.locator("figure.chart .trace.on").first.get_attribute("data-name") == names[1]
    page.mouse.move(0, 0)
    assert page.locator(".trace.on").count() == 0
    page.locator("#curves button.run").nth(2).hover()
    assert page.locator("figure.chart .trace.on").first.get_attribute("data-name") == names[2]

    def colours() -> list[str]:
        lines = page.locator("figure.chart", has_text="effective rank").first.locator(".trace path:first-child")
        return [own.evaluate("line => getComputedStyle(line).stroke") for own in lines.all()]

    first = colours()
    assert first[0] == first[1] != first[2]  # by stream
    page.locator("#curves select.colouring").select_option(label="run")
    assert len(set(colours())) == 3


def test_baselines_are_shown_when_asked_for_everywhere(opened: Callable[..., Any], path: Path) -> None:
    page = opened(path)
    assert visible(page, "robustness: noise") == [f"{METHOD}, joint", f"{METHOD}, bone"]
    assert not page.locator("tr.baseline").first.is_visible()
    page.locator("#benchmark input.baselines-too").check()
    assert page.locator("tr.baseline").first.is_visible()
    assert page.locator("#levels input.baselines-too").is_checked()
    assert len(visible(page, "robustness: noise")) == 4


def test_a_chart_tells_its_values_to_pointer_and_keyboard(opened: Callable[..., Any], path: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    page = opened(path)
    figure = page.locator("figure.chart", has_text="robustness: noise")
    chart = figure.locator("svg")
    box = chart.bounding_box()
    # hover scrolls there and waits until it is at rest: sections take their height only when they are first seen
    chart.hover(position={"x": 0.99 * box["width"], "y": 0.5 * box["height"]})
    tip = figure.locator(".tip")
    # the mean of two seeds, 0.5 and 0.6, and 0.7, with noise of 0.2
    told = f"standard deviation, metres 0.2 {METHOD}, bone 50 {METHOD}, joint 35"
    expect(tip).to_have_text(told, use_inner_text=True)
    page.mouse.move(0, 0)
    expect(tip).to_have_text("", use_inner_text=True)
    chart.focus()
    page.keyboard.press("ArrowRight")
    expect(tip).to_contain_text("metres 0.1")
    page.keyboard.press("Escape")
    expect(tip).to_have_text("", use_inner_text=True)


def test_a_table_is_sorted_by_a_column(opened: Callable[..., Any], path: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    page = opened(path)
    table = page.locator("table.sortable", has_text="accuracy").first
    # the rendered text of a section that was not seen yet is empty: wait for it, do not read it once
    expect(table.locator("tr.trained th")).to_contain_text([f"{METHOD}, joint", f"{METHOD}, bone"])
    table.locator("thead button").first.click()
    expect(table.locator("tr.trained th")).to_contain_text([f"{METHOD}, bone", f"{METHOD}, joint"])
    expect(table.locator("thead th.number").first).to_have_attribute("aria-sort", "descending")
    table.locator("thead button").first.click()
    expect(table.locator("tr.trained th")).to_contain_text([f"{METHOD}, joint", f"{METHOD}, bone"])


def test_scores_of_a_run_are_made_when_they_are_opened(opened: Callable[..., Any], path: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    page = opened(path)
    assert page.locator("section.task").count() == 0
    page.locator("#scores details.lazy > summary").nth(2).click()
    first = page.locator("#scores section.task").first
    expect(first).to_contain_text(re.compile(r"^\s*retrieval"))
    expect(first).to_contain_text("70.0 %")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (420, "dark")])
def test_every_section_fits_and_is_reached_by_its_link(
    opened: Callable[..., Any], path: Path, screenshots: Path, width: int, scheme: str
) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    page = opened(path, width=width, color_scheme=scheme, reduced_motion="reduce")
    for name in SECTIONS:
        link = page.locator(f'nav a[href="#{name}"]')
        link.focus()
        page.keyboard.press("Enter")
        expect(page.locator(f"#h-{name}")).to_be_in_viewport()
        page.locator(f"#{name}").screenshot(path=screenshots / f"report-{name}-{width}-{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_views_of_another_stream_can_be_chosen(opened: Callable[..., Any], path: Path) -> None:
    page = opened(path, reduced_motion="reduce")
    page.locator("#views").scroll_into_view_if_needed()
    page.locator("#views .kind").first.locator("canvas").first.wait_for()
    page.locator("#kind").select_option(label=f"{METHOD}, bone")
    page.locator("#views .kind").nth(1).locator("canvas").first.wait_for()
    assert not page.locator("#views .kind").first.is_visible()


def test_a_section_that_a_link_leads_to_stays_while_those_above_grow_until_the_reader_moves(
    opened: Callable[..., Any], path: Path
) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    page = opened(path, reduced_motion="reduce")
    # some frames after it came there; the browser's own remedy, which does not always help, is off
    page.evaluate("""() => {
        document.documentElement.style.overflowAnchor = "none";
        window.grow = (to) => { document.getElementById("classes").style.paddingBottom = to; };
        window.frames_later = (count) => new Promise((done) => {
            const wait = (left) => (left ? requestAnimationFrame(() => wait(left - 1)) : done());
            wait(count);
        });
        window.grown = new Promise((done) => addEventListener(
            "hashchange", () => frames_later(5).then(() => { grow("3000px"); done(); })
        ));
    }""")
    page.locator('nav a[href="#views"]').click()
    page.evaluate("grown")
    heading = page.locator("#h-views")
    expect(heading).to_be_in_viewport()
    page.mouse.wheel(0, 10)
    page.evaluate("frames_later(5).then(() => { grow('6000px'); return frames_later(40); })")
    expect(heading).not_to_be_in_viewport()
