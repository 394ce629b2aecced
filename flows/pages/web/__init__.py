"""The player of skeletons in pages: what is put into a page, and what its scripts need to know of a skeleton.

In a template: `{% include "player.html" %}` once, with `player=assets()` in its context; then, for each group of
sequences, `skelstream.player(element, skeleton, sequences)` in a script. `player.js` tells what these are.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipelines.views.downstream import up_axis
from shards.skeleton import JOINT_NAMES, NUM_PERSONS, PARENTS

SCRIPTS = ("three.min.js", "figures.js", "stage.js", "card.js", "player.js")


FARTHEST = 32767
"""Millimetres; coordinates beyond are clipped to it."""


@dataclass(frozen=True)
class Assets:
    """Text to inline: of one script element each, and of a style element."""

    scripts: tuple[Markup, ...]
    style: Markup


@cache
def assets() -> Assets:
    """The vendored three.js, the player and its style."""
    return Assets(tuple(_text(name) for name in SCRIPTS), _text("player.css"))


def _text(name: str) -> Markup:
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    # what would end the element that it is put into, or start a comment in it
    assert not any(word in text.lower() for word in ("</script", "</style", "<!--")), name
    return Markup(text)


def skeleton(up: int) -> dict[str, Any]:
    """The skeleton as the player takes it; `up` is the coordinate that points upwards, see `upwards`."""
    return {"parents": PARENTS, "names": JOINT_NAMES, "up": up, "persons": NUM_PERSONS}


def upwards(recipe_steps: Sequence[Mapping[str, Any]]) -> int:
    """Number of the coordinate that points upwards in samples of this recipe, as of a manifest: 1 or 2."""
    return 2 if up_axis(recipe_steps) == "z" else 1


def encode(frames: npt.NDArray[np.float32]) -> str:
    """Coordinates (T, M, V, C) in metres as base64 of little-endian int16 millimetres."""
    return encode_bytes(np.clip(np.rint(frames * 1000.0), -FARTHEST, FARTHEST).astype("<i2"))


def encode_bytes(values: npt.NDArray[Any]) -> str:
    """The array's bytes in C order as base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
