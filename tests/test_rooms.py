"""The rule of the rooms holds, and breaking it fails the check."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("shards", "pipelines", "models", "flows")
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(folder: Path) -> tuple[bool, str]:
    """Whether the contracts are kept in that folder, and what the check says."""
    command = [sys.executable, "-c", LINT, "--no-cache", "--config", "pyproject.toml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the rooms and the rule."""
    folder = tmp_path_factory.mktemp("house")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_rule_is_kept() -> None:
    kept, said = lint(ROOT)
    assert kept, said
    assert "0 broken" in said


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("shards/schema.py", "import flows.options", "Five rooms, one direction"),
        ("shards/cells.py", "from pipelines import compiled", "Five rooms, one direction"),
        ("pipelines/augmentations/streams.py", "import models.heads", "Five rooms, one direction"),
        ("models/heads.py", "from pipelines.augmentations.streams import apply_stream", "Five rooms, one direction"),
        ("models/momentum.py", "import flows.options", "Five rooms, one direction"),
        ("pipelines/augmentations/streams.py", "def late():\n    import zarr", "zarr has one door: shards.store"),
        ("shards/verify/store.py", "import zarr.storage", "zarr has one door: shards.store"),
        ("models/heads.py", "from prefect import flow", "prefect has one door: flows"),
        ("flows/build.py", "import webdataset", "webdataset has one door: shards.reader"),
        ("flows/preprocess.py", "import distributed", "dask has one door: pipelines.conversion.runners"),
        ("shards/skeleton.py", "import torch", "torch enters shards only by shards.batch"),
        ("models/heads.py", "from tqdm import tqdm", "tqdm has one door: shards.progress"),
        ("flows/pretrain.py", "from flows.service.tracking import tell", "prefect stays out of the plain functions"),
        ("flows/tasks/bench.py", "from flows.scores import compare", "flows has layers"),
        ("flows/config.py", "import flows.build", "flows has layers"),
        ("pipelines/augmentations/streams.py", "import pipelines.views.spec", "pipelines has layers"),
    ],
)
def test_an_import_against_the_rule_fails_the_check(house: Path, module: str, statement: str, contract: str) -> None:
    path = house / module
    before = path.read_text()
    path.write_text(f"{before}\n{statement}\n")
    try:
        kept, said = lint(house)
    finally:
        path.write_text(before)
    assert not kept
    assert f"{contract} BROKEN" in said
    assert "1 broken" in said


def test_the_copy_itself_keeps_the_rule(house: Path) -> None:
    kept, said = lint(house)
    assert kept, said
