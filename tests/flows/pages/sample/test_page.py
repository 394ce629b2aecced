"""The page of one sample: the numbers of training, what was drawn in words, and errors that help."""

import base64
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from flows.cli.main import main
from flows.config import read_config
from flows.pages.player import GONE, HIDDEN, MIXED, Run, Sight
from flows.pages.sample.page import STAND_IN, ViewRequest, view_specs, write_view
from flows.pages.web import assets
from flows.recipes.pcm3 import PCM3PPViewsConfig
from pipelines.augmentations.operation import JointMatrices, Samples
from pipelines.augmentations.vocabulary import OPERATIONS
from pipelines.conversion.convert import convert
from pipelines.loaders.sample import Neighbours, find_sample, read_neighbours
from pipelines.synthetic import synthesize
from pipelines.views import make_views
from pipelines.views.draw import draw_view
from pipelines.views.spec import ViewSpec
from pipelines.views.text import any_words, index_words, joint_words, map_words, mask_words, matrix_words
from shards.batch import RaggedBatch, unflatten
from shards.catalog import DATASETS
from shards.encoding import Storage
from shards.errors import ConfigError, StoreError
from shards.manifest import read_manifest
from shards.reader import read_index, read_samples, read_shard
from shards.skeleton import BODY_PARTS, NUM_JOINTS
from tests.flows.reading import Page

HOSTILE = "</script><script>alert('x')</script>&\"<!--"


def millimetres(text: str) -> npt.NDArray[np.int16]:
    return np.frombuffer(base64.b64decode(text), "<i2").reshape(-1, 2, NUM_JOINTS, 3)


def states(view: dict[str, Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(view["state"]), np.uint8).reshape(-1, 2, NUM_JOINTS)


def any_coordinate(x: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(T, M, V): where a joint has a coordinate other than zero."""
    return np.asarray(x.any(axis=-1))


def coordinates(x: torch.Tensor) -> npt.NDArray[np.float32]:
    """The first sample of a flat view, (T, M, V, C)."""
    return np.asarray(unflatten(x[:1])[0].numpy())


def a_key(store: Path) -> str:
    """The second sample of the first shard that has more than two."""
    shard = next(shard for shard in read_manifest(store).shards if shard.samples > 2)
    return read_index(store / shard.path).keys[1]


def shown(request: ViewRequest, folder: Path) -> Page:
    out = write_view(request, folder / "page.html")
    return Page(out.read_text(encoding="utf-8"))


def spec_file(folder: Path, *views: dict[str, Any], frames: int = 16) -> str:
    path = folder / "spec.json"
    path.write_text(json.dumps({"frames": frames, "views": views}), encoding="utf-8")
    return str(path)


WHOLE = {"kind": "centre_crop", "ratio": 1.0}


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_the_page_holds_the_numbers_of_training(store: Path, tmp_path: Path, stream: Any) -> None:
    request = ViewRequest(store, a_key(store), stream=stream, seed=3, epoch=2, step=5)
    page = shown(request, tmp_path).viewer
    found = find_sample(store, request.key)
    around = read_neighbours(found, STAND_IN)
    spec = PCM3PPViewsConfig().spec((stream,))
    made = make_views(around.batch, spec, seed=3, epoch=2, step=5)
    assert len(page["views"]) == len(spec.views) == 6
    for view, shown_view in zip(spec.views, page["views"], strict=True):
        assert (shown_view["count"], shown_view["stream"]) == (spec.frames, stream)
        expected = np.rint(coordinates(made.views[view.name]) * 1000)
        np.testing.assert_array_equal(millimetres(shown_view["data"]), expected)
    ((_, frames, record),) = read_samples(found.index.path, [found.row], found.index)
    assert record["index"] == found.number == int(around.batch.sample_id[0])
    np.testing.assert_array_equal(millimetres(page["stored"]["data"]), np.rint(frames * 1000))


def test_hidden_joints_lie_where_the_unmasked_view_has_them(store: Path, tmp_path: Path) -> None:
    request = ViewRequest(store, a_key(store), seed=1)
    page = shown(request, tmp_path).viewer
    names = [view.name for view in PCM3PPViewsConfig().spec(("joint",)).views]
    views = dict(zip(names, page["views"], strict=True))
    made = make_views(
        read_neighbours(find_sample(store, request.key), STAND_IN).batch,
        PCM3PPViewsConfig().spec(("joint",)),
        seed=1,
        epoch=0,
        step=0,
    )
    for name, of in (("masked", "target"), ("clip", "key")):
        hidden = (states(views[name]) & HIDDEN) > 0
        mask = made.masks[name][:1].expand_as(made.views[name][:1])
        masked, full = ~any_coordinate(coordinates(mask)), millimetres(views[of]["data"])
        placed = any_coordinate(coordinates(made.views[of]))
        np.testing.assert_array_equal(hidden & placed, masked & placed)
        np.testing.assert_array_equal(millimetres(views[name]["ghost"])[masked & placed], full[masked & placed])
        assert not millimetres(views[name]["data"])[hidden].any()
        assert masked[:, 0].any()


def test_zeroed_joints_lie_where_the_sample_has_them_and_its_centre_is_not_taken_for_one(
    store: Path, tmp_path: Path
) -> None:
    views = spec_file(
        tmp_path,
        {"name": "plain", "operations": [WHOLE]},
        {"name": "lost", "operations": [WHOLE, {"kind": "joint_corruption", "joints": 25}]},
    )
    key = a_key(store)
    pages = [shown(ViewRequest(store, key, views, seed=seed), tmp_path).viewer["views"] for seed in range(8)]
    plain, lost = next((a, b) for a, b in pages if not millimetres(b["data"]).any())
    there = any_coordinate(millimetres(plain["data"]))
    np.testing.assert_array_equal(states(lost) & HIDDEN > 0, there)
    np.testing.assert_array_equal(millimetres(lost["ghost"]), millimetres(plain["data"]))
    assert not there[:, 0, 1].any(), "the recipe puts the spine mid into the origin"
    assert "state" not in plain
    assert not (states(lost) & GONE).any()


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_a_mix_names_its_partner_and_marks_what_it_changed(store: Path, tmp_path: Path, scope: Any) -> None:
    key, modes = a_key(store), set()
    around = read_neighbours(find_sample(store, key), STAND_IN)
    spec = PCM3PPViewsConfig(mix_scope=scope).spec(("joint",))
    (tmp_path / "views.json").write_text(spec.model_dump_json(), encoding="utf-8")
    for number in range(12):
        # what a sample draws changes with the epoch, what a batch draws with the step too
        epoch, step = (number, 0) if scope == "sample" else (0, number)
        page = shown(ViewRequest(store, key, str(tmp_path / "views.json"), epoch=epoch, step=step), tmp_path)
        made = make_views(around.batch, spec, seed=0, epoch=epoch, step=step)
        assert made.mix_partner is not None
        assert made.mix_weight is not None
        partner, weight = around.keys[int(made.mix_partner[0])], float(made.mix_weight[0])
        told = re.search(rf"pcm3_mix \(scope {scope}\): partner (\S+), its share (\S+); (\w+)", page.words)
        assert told is not None
        assert told[1] == partner
        assert float(told[2]) == pytest.approx(weight, abs=6e-4)
        modes.add(told[3])
        changed = (coordinates(made.views["mix"]) != coordinates(made.views["base"])).any(axis=-1)
        np.testing.assert_array_equal(states(page.viewer["views"][4]) & MIXED > 0, changed)
        assert all(other in page.words for other in around.keys)
    assert modes == {"cut", "time", "mixup"}


def test_the_words_tell_the_numbers_drawn(store: Path, tmp_path: Path) -> None:
    views = spec_file(
        tmp_path,
        {
            "name": "x",
            "operations": [{"kind": "crop", "min_frames": 8}, {"kind": "shear"}, {"kind": "clip_mask", "frames": 4}],
        },
    )
    request = ViewRequest(store, a_key(store), views, seed=7, epoch=1)
    page = shown(request, tmp_path)
    around = read_neighbours(find_sample(store, request.key), 1)
    spec = ViewSpec.model_validate_json(Path(views).read_text(encoding="utf-8"))
    samples = Samples(around.batch.sample_id, around.batch.length)
    drawn = draw_view(spec.views[0], samples, spec.frames, seed=7, epoch=1, step=0)
    assert drawn.window is not None
    assert drawn.joints is not None
    first, length = int(drawn.window.first[0]), int(drawn.window.length[0])
    assert f"frames {first} to {first + length - 1}, {length} in all, resampled to 16" in page.words
    assert f"shear (amplitude 1.0): {matrix_words(drawn.joints.matrices[0, 0])}" in page.words
    start = int(drawn.steps[0].params[0, 0])
    assert f"frames {start} to {start + 3}: nothing" in page.words
    at = page.viewer["views"][0]["at"]
    middles = first + (np.arange(16) + 0.5) * length / 16 - 0.5
    np.testing.assert_allclose(at, np.clip(middles, first, first + length - 1), atol=0.051)


def test_an_operation_that_passes_by_says_so(store: Path, tmp_path: Path) -> None:
    views = spec_file(tmp_path, {"name": "x", "operations": [WHOLE, {"kind": "shear", "probability": 0.0}]})
    page = shown(ViewRequest(store, a_key(store), views), tmp_path)
    assert "shear (probability 0.0, amplitude 1.0): passes this sample by" in page.words


def test_all_shows_every_operation_that_needs_no_file(store: Path, tmp_path: Path) -> None:
    page = shown(ViewRequest(store, a_key(store), "all"), tmp_path)
    specs = view_specs("all", "joint", None)
    kinds = {operation.kind for spec in specs for view in spec.views for operation in view.operations}
    assert set(OPERATIONS) - kinds <= {"stored_occlusion"}
    names = list(dict.fromkeys(view.name for spec in specs for view in spec.views))
    assert len(names) == len(page.viewer["views"])
    assert [view["title"] for view in page.viewer["views"]] == names
    targets = {
        name
        for spec in specs
        for name in make_views(
            read_neighbours(find_sample(store, a_key(store)), 8).batch, spec, seed=0, epoch=0, step=0
        ).targets
    }
    assert page.words.count("to predict ") == len(targets)


def test_fewer_frames_make_shorter_views(store: Path, tmp_path: Path) -> None:
    page = shown(ViewRequest(store, a_key(store), frames=32), tmp_path)
    assert {view["count"] for view in page.viewer["views"]} == {32}
    assert "--frames 32" in page.words
    with pytest.raises(ConfigError, match="multiple of 8"):
        write_view(ViewRequest(store, a_key(store), frames=20), tmp_path / "page.html")
    with pytest.raises(ConfigError, match="--frames: found 0, expected at least 1"):
        write_view(ViewRequest(store, a_key(store), frames=0), tmp_path / "page.html")


@pytest.mark.parametrize("dtype", ["float16", "fixed"])
def test_a_sample_is_shown_as_its_shard_keeps_it(raw: Path, tmp_path: Path, dtype: Storage) -> None:
    folder = convert("ntu", [raw], tmp_path / "data", dtype=dtype, workers=0).folder
    assert isinstance(folder, Path)
    request = ViewRequest(folder, a_key(folder))
    page = shown(request, tmp_path).viewer
    found = find_sample(folder, request.key)
    around = read_neighbours(found, STAND_IN)
    ((_, frames, _),) = read_samples(found.index.path, [found.row], found.index)
    assert frames.dtype == around.batch.frames.numpy().dtype == (np.float16 if dtype == "float16" else np.float32)
    np.testing.assert_array_equal(millimetres(page["stored"]["data"]), np.rint(frames.astype(np.float32) * 1000))
    made = make_views(around.batch, PCM3PPViewsConfig().spec(("joint",)), seed=0, epoch=0, step=0)
    expected = np.rint(coordinates(made.views["base"]) * 1000)
    np.testing.assert_array_equal(millimetres(page["views"][0]["data"]), expected)


def test_actions_of_a_video_are_samples_of_their_own(tmp_path: Path) -> None:
    raw = synthesize("pkummd1", tmp_path / "raw", subjects=4, classes=3, samples=4, seed=0, zipped=False)
    folder = convert("pkummd1", [raw], tmp_path / "data", workers=0).folder
    assert isinstance(folder, Path)
    manifest = read_manifest(folder)
    actions = [(shard, row, *it) for shard in manifest.shards for row, it in enumerate(read_shard(folder / shard.path))]
    for shard, row, key, _, record in actions:
        found = find_sample(tmp_path / "data", key, "pkummd1")
        assert (found.entry, found.row, found.number) == (shard, row, record["index"])
    *_, key, frames, _ = actions[-1]
    page = shown(ViewRequest(folder, key), tmp_path)
    np.testing.assert_array_equal(millimetres(page.viewer["stored"]["data"]), np.rint(frames * 1000))
    assert page.viewer["skeleton"]["up"] == 2, "an action in a shard is turned, unlike its video in the store"
    with pytest.raises(ConfigError, match=f"nearest: .*{key.rpartition('_')[0]}_"):
        find_sample(folder, key.rpartition("_")[0])


def test_every_sample_is_found_where_it_lies(store: Path) -> None:
    for shard in read_manifest(store).shards:
        for row, (key, _, record) in enumerate(read_shard(store / shard.path)):
            found = find_sample(store.parent, key)
            assert (found.folder, found.entry, found.row) == (store, shard, row)
            assert found.number == record["index"]


def test_the_neighbours_are_those_behind_it_then_those_before_it_then_other_shards(store: Path) -> None:
    shards = read_manifest(store).shards
    number = len(shards) - 1
    keys = [read_index(store / shard.path).keys for shard in shards]
    last = keys[number]
    around = read_neighbours(find_sample(store, last[1]), len(last) + 2)
    assert around.keys == (*last[1:], last[0], *keys[0][:2])
    assert read_neighbours(find_sample(store, last[1]), 10**6).batch.length.shape[0] == sum(map(len, keys))
    for place, key in enumerate(around.keys):
        found = find_sample(store, key)
        ((_, frames, record),) = read_samples(found.index.path, [found.row], found.index)
        start, length = int(around.batch.start[place]), int(around.batch.length[place])
        np.testing.assert_array_equal(around.batch.frames[start : start + length].numpy(), frames)
        assert (int(around.batch.label[place]), int(around.batch.sample_id[place])) == (
            record["label"],
            record["index"],
        )


def test_an_unknown_key_gets_the_nearest_ones(store: Path) -> None:
    key = a_key(store)
    for wrong in (key[:-1] + "9", key.lower() + "x", key[1:]):
        with pytest.raises(ConfigError, match="expected a key as in the store; nearest: ") as error:
            find_sample(store, wrong)
        assert len(str(error.value)) < 400
    with pytest.raises(ConfigError, match=f"nearest: .*{key}"):
        find_sample(store, key.lower())
    for hostile in ("", "../../etc/passwd", "ü" * 1000):
        with pytest.raises(ConfigError, match="nearest"):
            find_sample(store, hostile)


def test_a_key_of_two_stores_needs_one_of_them(store: Path, raw: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(store, data / store.name)
    other = convert("ntu", [raw], data, recipe="raw", workers=0).folder
    key = a_key(store)
    with pytest.raises(StoreError, match=r"in 2 stores \(.*pcm3.*raw.*\), expected one: point at its folder"):
        find_sample(data, key)
    assert find_sample(other, key).folder == other
    with pytest.raises(StoreError, match="found 2 stores"):
        find_sample(data, key, "ntu60")


def test_a_data_set_must_hold_the_sample(tmp_path: Path) -> None:
    raw = synthesize("ntu", tmp_path / "raw", subjects=4, classes=12, samples=24, seed=0, zipped=False)
    convert("ntu", [raw], tmp_path / "data", workers=0)
    later = next(path.stem for path in sorted(raw.rglob("*.skeleton")) if int(path.stem[-3:]) > 60)
    assert {name.partition("/")[0] for name in find_sample(tmp_path / "data", later, "ntu120").memberships} == {
        "ntu120"
    }
    with pytest.raises(ConfigError, match=f"found {later} in ntu120, expected a sample of ntu60"):
        find_sample(tmp_path / "data", later, "ntu60")
    with pytest.raises(StoreError, match="nwucla"):
        find_sample(tmp_path / "data", later, "nwucla")


def test_a_shard_whose_record_is_of_another_sample_is_refused(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / store.name
    shutil.copytree(store, copy)
    found = find_sample(copy, a_key(copy))
    path = copy / found.entry.path
    was, other = f'"index":{found.number}'.encode(), f'"index":{found.number ^ 1}'.encode()
    data = path.read_bytes()
    start = data.index(f"{a_key(copy)}.json".encode())
    assert data.index(was, start) < start + 1024
    path.write_bytes(data[:start] + data[start:].replace(was, other, 1))
    with pytest.raises(StoreError, match=f"expected {found.number} by the store"):
        read_neighbours(found, 1)


def _run_folder(run: Path, folder: Path, **data: Any) -> Path:
    """A run folder whose configuration says another seed, and perhaps other data."""
    config = json.loads((run / "config.json").read_text())
    config["train"]["seed"] = 7
    config["data"] |= data
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_says_views_stream_and_seed(run: Path, store: Path, tmp_path: Path) -> None:
    key, folder = a_key(store), _run_folder(run, tmp_path / "run", streams=["bone"])
    page = shown(ViewRequest(data=store, key=key, views=str(folder), epoch=3), tmp_path)
    config = read_config(folder / "config.json")
    around = read_neighbours(find_sample(store, key), STAND_IN)
    expected = make_views(around.batch, config.views.spec(("bone",)), seed=7, epoch=3, step=0)
    values = np.rint(coordinates(expected.views["base"]) * 1000)
    np.testing.assert_array_equal(millimetres(page.viewer["views"][0]["data"]), values)
    other = shown(ViewRequest(data=store, key=key, views=str(folder), epoch=3, seed=8), tmp_path)
    assert other.viewer["views"] != page.viewer["views"]


def test_in_a_mixture_a_sample_is_drawn_by_its_source_too(run: Path, store: Path, tmp_path: Path) -> None:
    key = a_key(store)
    also = [{"dataset": "ntu60", "protocol": "xview"}]
    mixed = _run_folder(run, tmp_path / "mixed", dataset="pkummd1", protocol="xsub", also=also)
    alone = _run_folder(run, tmp_path / "alone")
    pages = [shown(ViewRequest(data=store, key=key, views=str(folder)), tmp_path) for folder in (mixed, alone)]
    assert pages[0].viewer["views"] != pages[1].viewer["views"]
    assert f"sample {find_sample(store, key).number} of source 1 of the mixture" in pages[0].text
    elsewhere = _run_folder(run, tmp_path / "elsewhere", dataset="nwucla")
    with pytest.raises(ConfigError, match="found a run on nwucla, expected one on ntu120 or ntu60"):
        write_view(ViewRequest(data=store, key=key, views=str(elsewhere)), tmp_path / "page.html")


def test_unknown_views_are_told_the_names(store: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"found 'pcm4', expected one of .*pcm3pp.*all, the folder of a run, or a \.json"
    ):
        write_view(ViewRequest(store, a_key(store), "pcm4"), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_a_specification_are_one_message(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    for text, told in (
        ("{", "found no readable JSON"),
        ("[]", "found a JSON list, expected a ViewSpec"),
        ('{"views": []}', "views"),
        ('{"frames": 0, "views": [{"name": "x", "operations": [{"kind": "nope"}]}]}', "nope"),
        ('{"frames": NaN, "views": []}', "NaN"),
        ('{"views": [{"name": "x", "operations": [{"kind": "shear"}]}]}', "expected one crop"),
        ('{"views": [], "view": 1}', "view: found 1"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=told) as error:
            view_specs(str(path), "joint", None)
        assert str(error.value).startswith(str(path))
    with pytest.raises(ConfigError, match="found no readable JSON"):
        view_specs(str(tmp_path / "absent.json"), "joint", None)
    with pytest.raises(ConfigError, match="found it beside a file"):
        view_specs(str(path), "joint", 32)


def test_numbers_below_zero_and_a_folder_for_a_page_are_refused(store: Path, tmp_path: Path) -> None:
    for name in ("seed", "epoch", "step"):
        request = ViewRequest(store, a_key(store), **{name: -1})  # type: ignore[arg-type]  # names are of numbers
        with pytest.raises(ConfigError, match=f"--{name}: found -1, expected 0 or more"):
            write_view(request, tmp_path / "page.html")
    with pytest.raises(ConfigError, match="--out: found the folder"):
        write_view(ViewRequest(store, a_key(store)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_page_needs_nothing_else_and_its_script_only_what_is_there(store: Path, tmp_path: Path) -> None:
    page = shown(ViewRequest(store, a_key(store)), tmp_path)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    ours = text.replace(assets().scripts[0], "")
    without_data = re.sub(r'"(data|ghost|state|still)": "[A-Za-z0-9+/=]*"', "", ours)
    assert len(ours) == len(text) - len(assets().scripts[0]), "three.js stands in the page, and once"
    assert not re.search(r"https?:|//[a-z]|@import|url\(", without_data)
    assert page.links == []
    assert "default-src 'none'" in text
    assert set(re.findall(r'find\("([\w-]+)"\)', page.scripts[-1])) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_hostile_names_of_views_stay_text(store: Path, tmp_path: Path) -> None:
    views = spec_file(tmp_path, {"name": HOSTILE, "operations": [WHOLE]})
    page = shown(ViewRequest(store, a_key(store), views), tmp_path)
    assert len(page.scripts) == len(assets().scripts) + 2
    assert [view["title"] for view in page.viewer["views"]] == [HOSTILE]
    assert "alert('x')" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_command_says_how_to_draw_the_page_again(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = a_key(store)

    def run(*words: str) -> list[str]:
        assert main(words) == 0
        return capsys.readouterr().out.splitlines()

    told = run("view", str(store), key, "--stream", "bone", "--seed", "4", "--epoch", "9", "--dataset", "ntu60")
    assert told[0] == f"wrote {key}.html"
    first = Path(f"{key}.html").read_bytes()
    words = shlex.split(told[1].removeprefix("again: "))
    assert words[:2] == ["skelstream", "view"]
    Path(f"{key}.html").unlink()
    run(*words[1:])
    assert Path(f"{key}.html").read_bytes() == first
    assert shlex.join(words) in Page(first.decode()).words
    assert "ntu60" in DATASETS


def test_a_page_of_a_long_sample_stays_far_below_two_megabytes() -> None:
    length = 300
    frames = torch.from_numpy(np.random.default_rng(0).normal(size=(4 * length, 2, NUM_JOINTS, 3)).astype(np.float32))
    ids = torch.arange(4)
    batch = RaggedBatch(frames, ids * length, torch.full((4,), length), ids, ids)
    around = Neighbours(("a", "b", "c", "d"), batch)
    for stream in ("joint", "motion"):
        pictures = Sight(PCM3PPViewsConfig().spec((stream,)), around, Run(0, 0, 0)).pictures()
        assert len(json.dumps([picture.frames for picture in pictures])) < 600_000


def test_times_are_told_in_stretches() -> None:
    for index, told in (
        (range(16), "every frame in its place"),
        (range(15, -1, -1), "frames 15 to 0"),
        ([0, 0, 0, 1, 2, 3], "frames 0 (3 times), 1 to 3"),
        ([4, 5, 6, 0, 1, 2], "frames 4 to 6, 0 to 2"),
        ([0, 2, 4, 6], "frames 0, 2, 4, 6"),
        ([0.5, 1.5, 3.0], "frames 0.5 to 3.0 in steps of 1.00 to 1.50"),
        (list(range(0, 80, 2)), f"frames {', '.join(map(str, range(0, 32, 2)))} and 24 stretches more"),
    ):
        assert index_words(np.array(index, np.float64)) == told


def test_maps_of_joints_are_told_by_name() -> None:
    same, matrices = torch.eye(3).expand(1, 1, 3, 3), torch.eye(3).repeat(1, NUM_JOINTS, 1, 1)
    assert map_words(JointMatrices(same)) == "unchanged"
    assert map_words(JointMatrices(matrices)) == "unchanged"
    assert map_words(JointMatrices(same * 2)) == "matrix 2 0 0; 0 2 0; 0 0 2"
    source = torch.arange(NUM_JOINTS)[None].clone()
    source[0, [4, 8]] = torch.tensor([8, 4])
    assert map_words(JointMatrices(same, source)) == "swapped: left shoulder and right shoulder"
    source[0, [4, 8]] = torch.tensor([8, 8])
    assert map_words(JointMatrices(same, source)) == "taken: left shoulder from right shoulder"
    matrices[0, [3, *BODY_PARTS[1]]] = 0
    matrices[0, 0, 0, 1] = -0.25
    told = "spine base multiplied by the matrix 1 -0.25 0; 0 1 0; 0 0 1; right arm, head set to zero"
    assert map_words(JointMatrices(matrices)) == told
    each = torch.eye(3) * torch.arange(1, NUM_JOINTS + 1)[:, None, None]
    assert map_words(JointMatrices(each[None])) == "24 joints, each by a matrix of its own"


def test_masks_are_told_by_frames_and_body_parts() -> None:
    hidden = np.zeros((8, 2, NUM_JOINTS), np.bool_)
    assert mask_words(hidden) == ["nothing"]
    hidden[2:5] = True
    hidden[5:, 1, list(BODY_PARTS[4])] = True
    assert mask_words(hidden) == [
        "frames 0 to 1: nothing",
        "frames 2 to 4: everything",
        "frames 5 to 7: left leg of person 1",
    ]
    assert mask_words(hidden[:, 1:])[2] == "frames 5 to 7: left leg"
    many = np.random.default_rng(0).random((64, 1, NUM_JOINTS)) < 0.5
    assert re.fullmatch(r"\d\d% of all joints, \d+ to \d+ in a frame, others in most frames", mask_words(many)[0])
    few = many[:12].repeat(4, axis=0)
    assert "of all joints" in mask_words(few)[0], "twelve stretches of a dozen joints each are too long to read"
    assert joint_words(range(NUM_JOINTS)) == "all joints"


def test_parameters_of_any_kind_have_words() -> None:
    assert any_words(torch.tensor([[0.25, 1]])) == "0.25 1"
    assert any_words(torch.arange(100).view(1, 10, 10)) == "10 x 10 numbers from 0 to 99"
    assert any_words({"a": (1, 2.5, "x"), "b": torch.tensor([True])}) == "a 1, 2.5, x, b 1"
    assert any_words(torch.arange(NUM_JOINTS)[None] == 3) == "head"
    assert any_words(torch.zeros(1, NUM_JOINTS, dtype=torch.bool)) == "no joint"
    assert any_words(()) == "none"
    assert any_words(Run(1, 2, 3)) == "seed 1, epoch 2, step 3"
