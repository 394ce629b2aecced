"""The player in a browser: the numbers it draws, its controls, one WebGL context, and what it says without WebGL."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from jinja2 import Environment, PackageLoader

from flows.pages.player import GONE, HIDDEN, MIXED
from flows.pages.quality import stats
from flows.pages.sample.page import ViewRequest, write_view
from flows.pages.web import assets, encode, encode_bytes, skeleton
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from shards.manifest import STORE
from shards.skeleton import JOINT_NAMES, NUM_JOINTS, PARENTS
from shards.store import open_store

Open = Callable[..., Any]
Floats = npt.NDArray[np.float32]

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>player</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>:root { color-scheme: light dark; } body { margin: 8px; } .far { height: 3000px; }</style>
{% include "player.html" %}</head><body>
{% for group in groups %}
<div id="group-{{ loop.index0 }}"></div><div {% if far %}class="far"{% endif %}></div>
{% endfor %}
<script type="application/json" id="data">{{ {"skeleton": skeleton, "groups": groups} | tojson }}</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
const players = data.groups.map((group, place) => skelstream.player(
  document.getElementById("group-" + place), data.skeleton, group, { playing: {{ playing | tojson }} }));
</script></body></html>"""

REST = np.array(
    [(0.25 * name.startswith("right") - 0.25 * name.startswith("left"), 0.05 * place, 0.0)
     for place, name in enumerate(JOINT_NAMES)], np.float32,
)  # fmt: skip
"""A made-up body, y upwards, its left at -x, every joint at a height of its own."""


def clip(count: int = 8, persons: int = 2) -> Floats:
    """(T, M, V, C): bodies beside each other along x, that walk along z."""
    frames = np.zeros((count, persons, NUM_JOINTS, 3), np.float32)
    for frame in range(count):
        for person in range(persons):
            frames[frame, person] = REST + np.array([1.5 * person, 0, 0.05 * frame])
    return frames


def sequence(frames: Floats, title: str = "a clip", **facts: Any) -> dict[str, Any]:
    return {"title": title, "count": len(frames), "persons": frames.shape[1], "data": encode(frames), **facts}


def write(folder: Path, *groups: list[dict[str, Any]], up: int = 1, far: bool = False, playing: bool = False) -> Path:
    environment = Environment(loader=PackageLoader("flows.pages"), autoescape=True)
    text = environment.from_string(PAGE).render(
        player=assets(), skeleton=skeleton(up), groups=groups, far=far, playing=playing
    )
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    return path


def until(page: Any, expression: str) -> None:
    """Wait for it; Playwright's own waiting evaluates text, which the page's policy forbids."""
    look = f"const look = () => {expression} ? done() : requestAnimationFrame(look); look();"
    page.evaluate(f"() => new Promise((done) => {{ {look} }})")


def told(page: Any) -> list[str]:
    """What the cards say of their frames."""
    settled(page)
    return [str(text) for text in page.locator(".sk-told output").all_inner_texts()]


def settled(page: Any) -> None:
    """After the frame in which the player draws."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


CENTRES = """(canvas) => {
  const { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, width, height).data;
  const sums = { blue: [0, 0, 0, 0], orange: [0, 0, 0, 0], green: [0, 0, 0, 0], red: [0, 0, 0, 0] };
  for (let i = 0; i < pixels.length; i += 4) {
    const [r, g, b, a] = pixels.slice(i, i + 4);
    if (a < 250) continue;
    const name = b > r + 50 && b > g + 30 ? "blue" : r > b + 60 && g > 1.2 * b && r > g + 30 ? "orange"
      : g > r + 40 && g > b + 30 ? "green" : r > g + 90 && r > b + 60 ? "red" : null;
    if (!name) continue;
    sums[name][0] += 1; sums[name][1] += (i / 4) % width; sums[name][2] += Math.floor(i / 4 / width);
    sums[name][3] += r + g + b;
  }
  const share = ([n, x, y, light]) => n < 20 ? null : { n, x: x / n / width, y: y / n / height, light: light / n };
  return Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, share(sum)]));
}"""


def centres(page: Any, place: int = 0) -> dict[str, Any]:
    """Number, middle (shares of a card from its top left) and lightness of the pixels of a colour; None: hardly any."""
    settled(page)
    found: dict[str, Any] = page.locator("canvas").nth(place).evaluate(CENTRES)
    return found


WATCHED = """window.contexts = 0; const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) { %s };"""
"""A script that does something else when a context is asked for."""

BODIES = """([sequence, moment]) => new skelstream.Figure(data.skeleton, sequence).bodies(moment)"""


def bodies(page: Any, shown: dict[str, Any], moment: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(BODIES, [shown, moment])
    return found


def seen(points: Floats, up: int) -> Floats:
    """The obvious reference: data coordinates as right, up and towards the reader, without mirroring."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([-x, y, -z] if up == 1 else [-x, z, y], axis=-1)


@pytest.mark.parametrize("up", [1, 2])
def test_bodies_are_the_millimetres_seen_face_to_face(opened: Open, tmp_path: Path, up: int) -> None:
    frames = np.random.default_rng(0).normal(size=(3, 2, NUM_JOINTS, 3)).astype(np.float32)
    frames[1, 0] = 0
    shown = sequence(frames)
    page = opened(write(tmp_path, [shown], up=up))
    for frame in range(3):
        found = bodies(page, shown, frame)
        assert [body["person"] for body in found] == ([1] if frame == 1 else [0, 1])
        for body in found:
            expected = seen(frames[frame, body["person"]], up)
            np.testing.assert_allclose(body["points"], expected, atol=0.00051)
    assert np.linalg.det(seen(np.eye(3, dtype=np.float32), up)) == pytest.approx(1), "left stays left"
    halfway = bodies(page, shown, 0.25)
    np.testing.assert_allclose(halfway[1]["points"], seen(0.75 * frames[0, 1] + 0.25 * frames[1, 1], up), atol=0.00051)
    assert [body["person"] for body in halfway] == [0, 1], "who is gone in the next frame stays until then"


def test_bones_are_joined_and_motion_points_from_where_joints_are(opened: Open, tmp_path: Path) -> None:
    frames = clip(2)
    bones = frames - frames[:, :, list(PARENTS)]
    shown = sequence(bones, stream="bone")
    page = opened(write(tmp_path, [shown]))
    for body in bodies(page, shown, 1):
        own, root = frames[1, body["person"]], PARENTS.index(20, 20)
        expected = seen(own - own[root], 1) - [body["person"], 0, 0]
        np.testing.assert_allclose(body["points"], expected, atol=0.006)
    motion = sequence(np.full_like(frames, 0.01), stream="motion", still=encode(frames))
    for body in bodies(page, motion, 0):
        np.testing.assert_allclose(body["points"], seen(frames[0, body["person"]], 1), atol=0.00051)
        np.testing.assert_allclose(np.subtract(body["tips"], body["points"]), [[-0.05, 0.05, -0.05]] * 25, atol=1e-6)


def test_hidden_joints_are_drawn_where_they_would_be_and_lost_ones_not_at_all(opened: Open, tmp_path: Path) -> None:
    frames, state = clip(4, persons=1), np.zeros((4, 1, NUM_JOINTS), np.uint8)
    state[:, :, [5, 6]], state[2:, :, 8:12], state[:, :, 3] = HIDDEN, MIXED, GONE
    seen_frames = np.where((state & (HIDDEN | GONE))[..., None] > 0, 0, frames).astype(np.float32)
    shown = sequence(seen_frames, state=encode_bytes(state), ghost=encode(frames))
    page = opened(write(tmp_path, [shown]))
    (body,) = bodies(page, shown, 2.5)
    assert body["states"] == state[2, 0].tolist()
    np.testing.assert_allclose(body["points"][5], seen((frames[2, 0, 5] + frames[3, 0, 5]) / 2, 1), atol=0.00051)
    (body,) = bodies(page, shown, 1.5)
    np.testing.assert_allclose(body["points"][9], seen(frames[1, 0, 9], 1), atol=0.00051)
    legend = page.locator(".sk-legend").inner_text()
    assert "masked or zero for the encoder" in legend
    assert "changed by a mix" in legend
    page.evaluate("players[0].seek(0.1)")
    before = centres(page)
    page.evaluate("players[0].seek(0.9)")
    assert (before["green"], before["blue"] is None) == (None, False)
    assert centres(page)["green"]["n"] > 20


def test_two_persons_have_two_colours_and_stand_where_the_camera_sees_them(opened: Open, tmp_path: Path) -> None:
    page = opened(write(tmp_path, [sequence(clip())]))
    page.get_by_role("button", name="front").click()
    front = centres(page)
    assert front["orange"]["x"] < 0.45 < 0.55 < front["blue"]["x"], "x of a camera grows to the reader's left"
    page.get_by_role("button", name="side").click()
    side = centres(page)
    assert abs(side["orange"]["x"] - 0.5) < 0.1
    page.get_by_role("button", name="top").click()
    top = centres(page)
    assert top["orange"]["x"] < 0.45 < 0.55 < top["blue"]["x"]
    assert abs(top["orange"]["y"] - 0.5) < 0.12
    assert "person 1" in page.locator(".sk-legend").inner_text()


def test_dragging_arrow_keys_and_zoom_turn_all_cards_and_reset_undoes_them(opened: Open, tmp_path: Path) -> None:
    page = opened(write(tmp_path, [sequence(clip()), sequence(clip(), "another")]))
    first = page.locator("canvas").first
    pictures = [[centres(page, place) for place in (0, 1)]]
    assert pictures[0][0] == pictures[0][1], "equal data, one camera"
    box = first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 110)
    page.mouse.up()
    first.focus()
    for act in ("drag", "ArrowLeft", "ArrowUp", "+", "-", "Home"):
        if act != "drag":
            page.keyboard.press(act)
        pictures.append([centres(page, place) for place in (0, 1)])
        assert pictures[-1][0] == pictures[-1][1]
        assert pictures[-1] != pictures[-2]
    assert pictures[-1] == pictures[0]
    page.get_by_role("button", name="closer").click()
    assert centres(page)["blue"]["n"] > 1.1 * pictures[0][0]["blue"]["n"]


def test_play_scrub_speed_and_frame_keys(opened: Open, tmp_path: Path) -> None:
    page = opened(write(tmp_path, [sequence(clip(8)), sequence(clip(4), "half")], playing=True))
    slider = page.get_by_role("slider", name="time")
    until(page, "Number(document.querySelector('input[type=range]').value) > 0.1")
    page.get_by_role("button", name="pause").click()
    stopped = slider.input_value()
    settled(page)
    assert slider.input_value() == stopped
    slider.fill("0.51")
    assert told(page) == ["frame 4 of 8", "frame 2 of 4"]
    slider.press("ArrowRight")
    assert told(page) == ["frame 5 of 8", "frame 2 of 4"]
    assert slider.get_attribute("aria-valuetext") == "frame 5 of 8"
    for _ in range(9):
        slider.press("ArrowLeft")
    assert told(page) == ["frame 0 of 8", "frame 0 of 4"]
    page.get_by_role("combobox", name="speed").select_option("4")
    page.locator("canvas").first.focus()
    page.keyboard.press(" ")
    until(page, "document.querySelector('.sk-told output').textContent !== 'frame 0 of 8'")
    page.evaluate("players[0].seek(1)")
    settled(page)
    assert told(page) == ["frame 7 of 8", "frame 3 of 4"]
    assert page.get_by_role("button", name="play", exact=True).is_visible()


def test_names_come_at_a_press_and_of_one_joint_by_pointing_at_it(opened: Open, tmp_path: Path) -> None:
    spy = """const write = CanvasRenderingContext2D.prototype.fillText; window.written = new Set();
      CanvasRenderingContext2D.prototype.fillText = function (...a) { written.add(a[0]); write.apply(this, a); };"""
    page = opened(write(tmp_path, [sequence(clip(persons=1))]), script=spy)
    settled(page)
    assert page.evaluate("written.size") == 0
    page.get_by_role("button", name="front").click()
    box = page.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
    for down in range(10, int(box["height"]), 6):
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + down)
        settled(page)
    assert {"spine base", "spine shoulder"} & set(page.evaluate("[...written]"))
    page.mouse.move(0, 0)
    page.evaluate("written.clear()")
    names = page.get_by_role("button", name="names")
    names.click()
    settled(page)
    assert names.get_attribute("aria-pressed") == "true"
    assert set(page.evaluate("[...written]")) <= set(JOINT_NAMES)
    assert page.evaluate("written.size") > 8


def test_a_mark_is_red_and_a_bar_shows_the_part_that_is_seen(opened: Open, tmp_path: Path) -> None:
    mark = {"person": 0, "joint": 7, "bone": True}
    at = [10.0, 12.5, 15.0, 17.5]
    page = opened(write(tmp_path, [sequence(clip(4), mark=mark, at=at, of=40, tone="wrong", lines=["<b>told"])]))
    assert centres(page)["red"]["n"] > 20
    page.evaluate("players[0].seek(0.3)")
    assert told(page) == ["frame 1 of 4 · sample frame 12.5 of 40"]
    assert page.locator(".sk-span i").get_attribute("style") == "left: 25%; width: 21.25%;"
    assert page.locator(".sk-span b").get_attribute("style") == "left: 32.5%;"
    assert "✗ wrong" in page.locator("figcaption").inner_text()
    assert page.locator(".sk-told li").inner_text() == "<b>told"


def test_all_players_share_one_context_and_draw_only_what_can_be_seen(opened: Open, tmp_path: Path) -> None:
    count = WATCHED % "contexts += kind.startsWith('webgl'); return get.call(this, kind, ...more);"
    groups = [[sequence(clip(), f"group {number}")] for number in range(4)]
    page = opened(write(tmp_path, *groups, far=True), script=count)
    until(page, "document.querySelector('canvas').width !== 300")
    page.evaluate("players[0].seek(0.5)")
    settled(page)
    page.evaluate("""() => { window.drawn = 0; const draw = skelstream.stage().draw;
      skelstream.stage().draw = function (...all) { drawn += 1; return draw.apply(this, all); }; }""")
    page.evaluate("players.forEach((player) => player.seek(0.7))")
    settled(page)
    assert page.evaluate("drawn") == 1, "three of four lie far below"
    page.locator("canvas").nth(2).scroll_into_view_if_needed()
    until(page, "drawn > 1")
    assert centres(page, 2)["blue"]
    page.evaluate("players[2].show([data.groups[0][0], data.groups[1][0]])")
    assert page.locator("#group-2 canvas").count() == 2
    assert centres(page, 3)["blue"]
    page.evaluate("players.forEach((player) => player.dispose())")
    assert page.locator("canvas").count() == 0
    assert page.evaluate("contexts") == 1


def test_without_webgl_the_page_says_so_and_keeps_its_words(opened: Open, tmp_path: Path) -> None:
    none = WATCHED % "return kind.startsWith('webgl') ? null : get.call(this, kind, ...more);"
    page = opened(write(tmp_path, [sequence(clip(), lines=["what was drawn"])], playing=True), script=none)
    assert "WebGL" in page.get_by_role("note").inner_text()
    assert page.get_by_text("what was drawn").is_visible()
    assert not page.locator("canvas").is_visible()
    page.evaluate("players[0].play(true); players[0].show(data.groups[0]); players[0].dispose()")


def test_who_prefers_calm_gets_a_still_picture(opened: Open, tmp_path: Path) -> None:
    page = opened(write(tmp_path, [sequence(clip())], playing=True), reduced_motion="reduce")
    assert centres(page)["blue"]
    page.wait_for_timeout(200)
    assert page.get_by_role("slider").input_value() == "0"
    page.get_by_role("button", name="play", exact=True).click()
    until(page, "Number(document.querySelector('input[type=range]').value) > 0")


def test_the_dark_has_colours_of_its_own_and_follows_a_change(opened: Open, tmp_path: Path) -> None:
    page = opened(write(tmp_path, [sequence(clip())]))
    ink = "getComputedStyle(document.querySelector('.sk-card')).backgroundColor"
    light, before = page.evaluate(ink), centres(page)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ink) != light
    assert centres(page)["blue"]["light"] > before["blue"]["light"] + 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted store with two persons in some samples."""
    root = tmp_path_factory.mktemp("pages")
    raw = synthesize("ntu", root / "raw", subjects=2, classes=4, samples=8, seed=0, zipped=False)
    folder = convert("ntu", [raw], root / "data", workers=0).folder
    assert isinstance(folder, Path)
    return folder


def test_the_page_of_a_sample_shows_every_view_wide_and_on_a_phone(
    opened: Open, store: Path, tmp_path: Path, screenshots: Path
) -> None:
    opened_store = open_store(store / STORE)
    key = next(info.key for row, info in enumerate(opened_store.infos) if opened_store.sample(row)[:, 1].any())
    for stream in ("joint", "bone", "motion"):
        path = write_view(ViewRequest(store, key, stream=stream), tmp_path / f"{stream}.html")
        for width, scheme in ((1280, "light"), (420, "dark"))[: 2 if stream == "joint" else 1]:
            page = opened(path, width=width, height=900, color_scheme=scheme)
            data = json.loads(page.locator("#data").text_content())
            assert page.locator("canvas").count() == len(data["views"]) + 1 == 7
            assert page.locator(".sk-card .note li").count() > 12
            assert page.locator("main > .note").count() == 0, "each list lies in its card"
            page.get_by_role("button", name="pause").click()
            assert centres(page)["blue"]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.locator(".sk-cards").scroll_into_view_if_needed()
            page.locator(".sk-card").nth(5).scroll_into_view_if_needed()
            settled(page)
            page.screenshot(path=screenshots / f"view-{stream}-{scheme}.png")


def test_an_outlier_opens_at_its_frames_and_the_focus_returns(
    opened: Open, store: Path, tmp_path: Path, screenshots: Path
) -> None:
    stats(store, tmp_path / "stats.html")
    page = opened(tmp_path / "stats.html", reduced_motion="reduce")
    button = page.locator(".show").first
    worst = int(button.get_attribute("data-frame"))
    button.click()
    assert page.locator("#viewer-key").inner_text() == button.get_attribute("data-key")
    assert told(page)[0].endswith(f"sample frame {worst}")
    found = centres(page)
    assert found["red"]["n"] > 20, "the joint is marked"
    page.screenshot(path=screenshots / "stats-outlier.png")
    page.get_by_role("slider").press("ArrowRight")
    page.get_by_role("button", name="worst frame").click()
    assert told(page)[0].endswith(f"sample frame {worst}")
    page.get_by_role("button", name="next").click()
    assert page.locator("#viewer-key").inner_text() == page.locator(".show").nth(1).get_attribute("data-key")
    page.keyboard.press("Escape")
    until(page, "document.querySelectorAll('.show')[1] === document.activeElement")
    assert page.locator("#player canvas").count() == 0
