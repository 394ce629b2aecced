"""A method of one's own, from its package to the report: docs/guides/own-method.md, word by word."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from flows.config import read_config
from models.evaluation.results import read_results
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.runlog import read_log
from shards.errors import ConfigError
from tests.end_to_end.shell import ROOT, script_of, type_in_shell

EXAMPLE = ROOT / "tests" / "examples" / "own_method"
GUIDE = ROOT / "docs" / "guides" / "own-method.md"


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has all of this one, and into which pip installs without touching this one.

    Its pip reaches no index: what the package asks for is there.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    outer = sysconfig.get_path("purelib")
    site = folder / "lib" / name / "site-packages"
    (site / "outer.pth").write_text(f"import site; site.addsitedir({outer!r}); site.addsitedir({str(ROOT)!r})\n")
    offline = "PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 PIP_DISABLE_PIP_VERSION_CHECK=1"
    for command, before in (("skelstream", ""), ("pip", offline)):
        script = folder / "bin" / command
        script.write_text(f'#!/bin/sh\nexec env {before} "$(dirname "$0")/python" -m {command} "$@"\n')
        script.chmod(0o755)
    return folder / "bin"


@pytest.fixture(scope="module")
def typed(bin_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which all of the guide was typed, and what was said."""
    folder = tmp_path_factory.mktemp("guide")
    return folder / "work", type_in_shell(script_of(GUIDE), folder, bin_folder)


def test_the_listing_shows_the_method_and_its_parameters(typed: tuple[Path, str]) -> None:
    said = typed[1].splitlines()
    (row,) = [line.split() for line in said if line.startswith("twins ")]
    assert row[:4] == ["twins", "contrastive", "joint_mlp", "1"]
    assert "twins: Barlow Twins of two views, on a network of each joint by itself" in said
    assert "  module      skelstream_twins.recipe" in said
    assert "  invariance, redundancy" in said
    assert any(line.startswith("  objective.redundancy_weight  0.005") for line in said)


def test_the_method_is_trained_on_its_own_encoder_and_on_another(typed: tuple[Path, str]) -> None:
    kinds = {"twins": ("twins", "joint_mlp"), "skeletonclr": ("skeletonclr", "joint_mlp"), "gcn": ("twins", "stgcn")}
    for name, (objective, encoder) in kinds.items():
        path = latest_checkpoint(typed[0] / "runs" / name)
        assert path is not None
        meta = load_checkpoint(path).meta["config"]["objective"]
        assert (path.name, meta["kind"], meta["encoder"]["kind"]) == ("epoch_0002.pt", objective, encoder)
    *_, last = read_log(typed[0] / "runs" / "twins")
    assert {"invariance", "redundancy"} == set(last["terms"])
    assert "agreement" in last["metrics"]


def test_the_method_is_scored_beside_its_untrained_encoder(typed: tuple[Path, str]) -> None:
    for task in ("linear", "retrieval"):
        results = read_results(typed[0] / "runs" / "twins" / "results" / f"{task}.json")
        assert {"trained", "random encoder"} <= {result.subject for result in results}
        assert all(0 < result.scores["accuracy"] <= 1 for result in results)
        assert all(result.versions["plug-in skelstream-twins"] == "1.0.0" for result in results)


def test_the_method_is_on_the_report(typed: tuple[Path, str]) -> None:
    page = (typed[0] / "report.html").read_text(encoding="utf-8")
    assert "twins+tiny on ntu60 xview" in page
    assert all(word in page for word in ("invariance", "redundancy", "plug-in skelstream-twins 1.0.0"))


def test_the_exported_encoder_is_loaded_by_the_entry_point_of_encoders_alone(
    typed: tuple[Path, str], bin_folder: Path
) -> None:
    code = (
        "import sys, torch; from models.exchange.export import load_encoder; encoder = load_encoder('encoder');"
        "print(type(encoder).__name__, *encoder(torch.ones(3, 16, 150)).feature.shape, 'flows' in sys.modules)"
    )
    said = subprocess.run(
        [bin_folder / "python", "-c", code], cwd=typed[0], capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == ["JointMLP", "3", "32", "False"]


def test_what_holds_for_every_method_holds_for_this_one(typed: tuple[Path, str]) -> None:
    assert " passed" in typed[1].splitlines()[-1]
    assert "failed" not in typed[1].splitlines()[-1]


def test_without_its_package_a_run_says_which_kind_is_missing(typed: tuple[Path, str]) -> None:
    with pytest.raises(ConfigError, match=r"'twins': found no such kind, expected one of .*skeletonclr"):
        read_config(typed[0] / "runs" / "twins" / "config.json")


def test_the_guide_shows_the_files_of_the_example() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    files = [EXAMPLE / "pyproject.toml", *sorted((EXAMPLE / "skelstream_twins").glob("[!_]*.py"))]
    assert len(files) == 4
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert f"```{'toml' if file.suffix == '.toml' else 'python'}\n{text}```" in guide, file
