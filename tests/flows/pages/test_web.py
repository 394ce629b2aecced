"""What pages take along: the vendored three.js is the recorded one, and neither it nor ours asks the network."""

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

import flows.pages.web
from flows.pages.player import GONE, HIDDEN, MIXED
from flows.pages.web import FARTHEST, assets, encode, encode_bytes, skeleton
from shards.skeleton import JOINT_NAMES, NUM_JOINTS

FOLDER = Path(flows.pages.web.__file__).parent
OURS = ("figures.js", "stage.js", "card.js", "player.js", "player.css")
ASKS = (
    r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|\bimport\(|new Worker|\beval\(|Function\("
)


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_the_vendored_library_is_the_recorded_one() -> None:
    record, bundle = json.loads(_read("three.json")), (FOLDER / "three.min.js").read_bytes()
    assert record["sha256"] == hashlib.sha256(bundle).hexdigest()
    assert record["bytes"] == len(bundle) < 700_000
    wanted = json.loads(_read("package.json"))["devDependencies"]
    locked = json.loads(_read("package-lock.json"))["packages"]
    assert record["version"] == wanted["three"] == locked["node_modules/three"]["version"]
    assert wanted["esbuild"] == locked["node_modules/esbuild"]["version"]
    assert f'"{record["version"].split(".")[1]}"' in bundle.decode("ascii"), "its own REVISION"
    assert "MIT" in _read("three.LICENSE.txt")


def test_the_lock_names_no_registry_and_checks_every_package() -> None:
    locked = json.loads(_read("package-lock.json"))["packages"]
    assert not any("resolved" in package for package in locked.values())
    assert all("integrity" in package for name, package in locked.items() if name)
    assert "http" not in _read("package-lock.json")


def test_nothing_asks_the_network_or_evaluates_text() -> None:
    for name in ("three.min.js", *OURS):
        found = re.findall(ASKS, _read(name))
        assert found == [], name
    # the one address is the name of a vocabulary, for document.createElementNS
    assert set(re.findall(r"https?:[^\"'`\s]+", _read("three.min.js"))) == {"http://www.w3.org/1999/xhtml"}
    for name in OURS:
        assert not re.search(r"https?:|//[a-z]|@import|url\(", _read(name)), name


def test_every_class_taken_from_the_library_is_in_the_entry_and_the_other_way_round() -> None:
    entry = set(re.findall(r"\b[A-Z]\w+(?=,|\s*})", _read("three-entry.js")))
    used = set(re.findall(r"\bTHREE\.(\w+)", "".join(map(_read, OURS))))
    assert entry - used == {"REVISION"}
    assert used <= entry


def test_the_script_knows_the_states_of_joints() -> None:
    told = re.search(r"STATES = \{ hidden: (\d), gone: (\d), mixed: (\d) \}", _read("figures.js"))
    assert told is not None
    assert tuple(map(int, told.groups())) == (HIDDEN, GONE, MIXED)


def test_scripts_end_no_element_and_come_after_the_library() -> None:
    first, *others = assets().scripts
    assert first.startswith("var THREE=")
    assert len(others) == len(OURS) - 1
    for text in (*assets().scripts, assets().style):
        assert "</" not in text.replace("</svg", "")
        assert "<!--" not in text


def test_coordinates_are_little_endian_millimetres_within_their_range() -> None:
    frames = np.zeros((2, 1, NUM_JOINTS, 3), np.float32)
    frames[1, 0, 2] = (-99, 1.2344, 99)
    values = np.frombuffer(base64.b64decode(encode(frames)), "<i2").reshape(2, 1, NUM_JOINTS, 3)
    assert values[1, 0, 2].tolist() == [-FARTHEST, 1234, FARTHEST]
    assert not values[0].any()
    turned = np.arange(12, dtype=np.uint8).reshape(2, 2, 3).transpose(2, 0, 1)
    assert list(base64.b64decode(encode_bytes(turned))) == turned.ravel().tolist()


@pytest.mark.parametrize("up", [1, 2])
def test_a_skeleton_is_json_with_a_name_for_every_joint(up: int) -> None:
    told = json.loads(json.dumps(skeleton(up)))
    assert told["up"] == up
    assert len(told["parents"]) == len(told["names"]) == NUM_JOINTS
    assert told["names"] == list(JOINT_NAMES)
