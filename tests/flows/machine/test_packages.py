"""Our packages are found though others of the same names come first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.machine.packages import HOME, PACKAGES, own_environment, own_module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A research repository that has a package of each of our names."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('this one is not ours')\n")
    return tmp_path


def run(command: list[str], folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_runs_with_such_a_repository_on_the_path(project: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(project)}
    script = Path(sys.executable).with_name("skelstream")
    for command in ([str(script)], [sys.executable, str(HOME / "skelstream.py")]):
        assert "pcm3pp" in run([*command, "methods"], project, env)


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "flows"])
def test_python_m_flows_runs_in_such_a_repository(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    env = os.environ | {"PYTHONPATH": str(HOME)}
    assert "pcm3pp" in run([sys.executable, "-m", "skelstream", "methods"], tmp_path, env)
    assert f"{HOME}" in run([sys.executable, "-c", f"import flows, {name}; print({name}.__file__)"], tmp_path, env)


def test_processes_that_we_start_run_our_own_modules(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(project))
    env = own_environment()
    assert env["PYTHONPATH"] == f"{HOME}{os.pathsep}{project}"
    assert run(own_module("flows.machine.packages"), project, env) == ""
    monkeypatch.delenv("PYTHONPATH")
    assert own_environment()["PYTHONPATH"] == str(HOME)
