"""The exhibits of a report in a real browser: pointing, keys and choices show the sample that they should."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import Environment, PackageLoader, select_autoescape

from flows.pages.player import encode
from flows.pages.web import assets, skeleton

CLASSES, SAMPLES, COUNT = 4, 24, 6

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>exhibits</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>:root { color-scheme: light dark; } body { margin: 0 auto; max-width: 70rem; padding: 1rem; }</style></head>
<body>{% include "player.html" %}{% include "exhibits.html" %}</body></html>"""  # noqa: E501


def body(seed: int) -> np.ndarray:
    """A moving cloud of joints, (COUNT, 1, 25, 3)."""
    draws = np.random.default_rng(seed)
    return (draws.normal(size=(1, 1, 25, 3)) * 0.4 + draws.normal(size=(COUNT, 1, 25, 3)) * 0.02).astype(np.float32)


def sample(number: int) -> dict[str, Any]:
    facts = {"subject": number % 3, "camera": 1, "length": 2 * COUNT, "count": COUNT, "bodies": 1}
    return {"key": f"S{number:03d}", "label": number % CLASSES, **facts, "data": encode(body(number))}


def exhibited(folder: str, wrong: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """A run whose samples lie on a lattice, six a row; of those in `wrong` the nearest one is of another class."""
    lattice = [step for number in range(SAMPLES) for step in (200 * (number % 6), 300 * (number // 6))]
    near = [(number + (number in wrong)) % CLASSES for number in range(SAMPLES)]
    of = {"pca": lattice, "tsne": lattice[::-1], "share": 0.5, "near": near}
    collapsed = {"pca": None, "tsne": None, "share": None, "why": "all samples have the same features", "near": None}
    queries = [{"id": n, "drawn": "at random", "near": {"trained": [[100 + n, 0.9], [101 + n, 0.8]]}} for n in (0, 1)]
    hidden = base64.b64encode(np.ones((COUNT, 1, 25), np.uint8).tobytes()).decode()
    one = {"id": 0, "count": COUNT, "at": list(range(COUNT)), "of": COUNT, "bodies": 1, "stream": "joint"}
    one |= {"truth": encode(body(0)), "predicted": encode(body(1)), "hidden": hidden, "share": 1.0}
    return {
        **{"folder": folder, "method": "pcm3pp", "dataset": "made", "protocol": "xview", "stream": "joint"},
        **{"seed": 0, "seeds": [0, 1], "pool": "abc"},
        "maps": {"ids": list(range(SAMPLES)), "of": {"trained": of, "random encoder": collapsed, "coordinates": of}},
        "neighbours": {"queries": queries, "searched": 5, "total": 2000, "right": {"trained": 0.75}},
        "prediction": {"samples": [one | {"error": 9.4, "line": 3.2}]},
        **changes,
    }


@pytest.fixture
def page(tmp_path: Path) -> Path:
    gone = {"prediction": {"missing": "This run predicts nothing."}}
    told = {
        "subjects": {"trained": "trained encoder", "random encoder": "untrained", "coordinates": "coordinates"},
        "classes": {"made": [f"class {label}" for label in range(CLASSES)]},
        "pools": {
            "abc": {"skeleton": skeleton(2), "samples": {str(n): sample(n) for n in [*range(SAMPLES), 100, 101, 102]}}
        },
        "runs": [exhibited("first", wrong=(3,)), exhibited("second", wrong=(), **gone)],
    }
    environment = Environment(loader=PackageLoader("flows.pages"), autoescape=select_autoescape(default=True))
    path = tmp_path / "page.html"
    path.write_text(environment.from_string(PAGE).render(exhibits=told, player=assets()), encoding="utf-8")
    return path


def shows(page: Any, text: str) -> None:
    """The title and key beside the map, which follows a little later, become those."""
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(page.locator("#embedding figcaption")).to_contain_text(text, use_inner_text=True)


def built(page: Any, name: str) -> Any:
    """A part of the exhibits, which is built when it comes into view."""
    part = page.locator(f"#{name}")
    part.scroll_into_view_if_needed()
    part.locator("canvas, .ex-missing:visible").first.wait_for()
    return part


def point(page: Any, number: int) -> None:
    box = page.locator(f"#ex-dot-{number}").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 2, box["y"] + box["height"] / 2)


def test_pointing_and_arrow_keys_show_the_sample_of_a_point(opened: Callable[..., Any], page: Path) -> None:
    seen = opened(page, 1200, 900, reduced_motion="reduce")
    seen.get_by_role("radio", name="PCA").check()
    point(seen, 9)
    shows(seen, "class 1 S009 ✓ right")
    point(seen, 3)
    shows(seen, "class 3 S003 ✗ wrong")
    assert seen.locator(".ex-dot.wrong").count() == 1
    assert seen.locator(".ex-dot.same").count() == SAMPLES / CLASSES  # those of its class stay bright
    seen.mouse.down()
    seen.mouse.up()
    point(seen, 9)
    seen.wait_for_timeout(200)
    shows(seen, "class 3 S003 ✗ wrong")  # the click holds it
    seen.locator("#embedding [role=listbox]").focus()
    for key, expected in (("ArrowDown", "S009"), ("ArrowRight", "S010"), ("ArrowUp", "S004"), ("End", "S023")):
        seen.keyboard.press(key)
        shows(seen, expected)
    active = seen.locator("#embedding [role=listbox]").get_attribute("aria-activedescendant")
    assert seen.locator(f"#{active}").get_attribute("aria-selected") == "true"


def test_choices_change_features_map_and_colours(opened: Callable[..., Any], page: Path) -> None:
    seen = opened(page, 1200, 900, reduced_motion="reduce")
    built(seen, "embedding")
    at = "document.getElementById('ex-dot-0').style.transform"
    assert seen.evaluate(at) == "translate(900px, 1000px)"
    seen.get_by_role("radio", name="PCA").check()
    assert seen.evaluate(at) == "translate(0px, 0px)"
    seen.get_by_role("radio", name="subject").check()
    keys = seen.locator(".ex-key")
    assert keys.all_inner_texts() == ["subject 0", "subject 1", "subject 2"]
    assert seen.get_by_role("radio", name="camera").count() == 0  # all are of one camera
    keys.first.click()
    assert seen.locator(".ex-dot.same").count() == SAMPLES / 3
    seen.locator("#embedding").get_by_role("radio", name="untrained").check()
    assert "All samples have the same features." in seen.locator("#embedding .ex-missing").inner_text()
    assert not seen.locator(".ex-map").is_visible()


def test_neighbours_are_marked_and_another_query_has_others(opened: Callable[..., Any], page: Path) -> None:
    seen = opened(page, 1200, 900, reduced_motion="reduce")
    row = built(seen, "neighbours")
    titles = row.locator("figcaption")
    found = [" ".join(text.split()) for text in titles.all_inner_texts()]
    assert found == ["query class 0", "1st class 0 ✓ right", "2nd class 1 ✗ wrong"]
    assert "5 of the 2,000 training samples" in row.inner_text()
    row.get_by_role("radio", name="class 1").check()
    found = [" ".join(text.split()) for text in titles.all_inner_texts()]
    assert found == ["query class 1", "1st class 1 ✓ right", "2nd class 2 ✗ wrong"]


def test_what_was_hidden_predicted_and_true_stands_side_by_side(opened: Callable[..., Any], page: Path) -> None:
    seen = opened(page, 1200, 900, reduced_motion="reduce")
    part = built(seen, "prediction")
    assert part.locator("figcaption strong").all_inner_texts() == ["what the encoder sees", "predicted", "truth"]
    assert "9.4 cm off" in part.inner_text()
    seen.get_by_label("Run").select_option(index=1)
    assert built(seen, "prediction").inner_text().endswith("This run predicts nothing.")
    assert seen.locator("#prediction canvas").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    opened: Callable[..., Any], page: Path, screenshots: Path, scheme: str
) -> None:
    seen = opened(page, 420, 900, color_scheme=scheme)
    for name in ("embedding", "neighbours", "prediction"):
        built(seen, name)
        seen.evaluate(f"document.getElementById('{name}').scrollIntoView()")
        seen.wait_for_timeout(200)
        seen.screenshot(path=screenshots / f"exhibits-{name}-{scheme}.png")
    assert seen.evaluate("document.documentElement.scrollWidth") <= 420
