"""The guides, followed word by word; see `tests.end_to_end.shell`."""

import os
import sys
from pathlib import Path

import pytest

from tests.end_to_end.shell import ROOT, script_of, type_in_shell

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))

SHOWS = {
    "dask-cluster": ": good",
    "notifications": "tell of regressed evaluations",
    "prefect-server": "retrieval",
    "s3": "retrieval",
    "several-gpus": "retrieval",
    "torchrun": "epoch_0002.pt",
    "training-loop": "onnx (8, 8)",
    "workstation": "nothing to remove",
}
"""What the last commands of each guide have to say."""

ELSEWHERE = ("own-method",)
"""Typed by test_own_method.py, in an environment that it may install into."""

LONG = ("prefect-server", "several-gpus")


def test_every_guide_is_followed() -> None:
    assert {guide.stem for guide in GUIDES} == {*SHOWS, *ELSEWHERE}


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if guide.stem in SHOWS], ids=lambda guide: guide.stem)
def test_a_guide_works_word_by_word(guide: Path, tmp_path: Path) -> None:
    if guide.stem in LONG and "GUIDES" not in os.environ:
        pytest.skip("takes minutes with a server and workers: make guides (test_deployments does the same in parts)")
    said = type_in_shell(script_of(guide), tmp_path, Path(sys.executable).parent)
    assert SHOWS[guide.stem] in said
