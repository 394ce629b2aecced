"""The guides, followed word by word: every `sh` block of each, in order, in one shell in an empty folder."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.patience import PATIENCE
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PORTS = ("4200", "8786", "29500", "5555")

SHOWS = {
    "dask-cluster": ": good",
    "notifications": "tell of regressed evaluations",
    "prefect-server": "retrieval",
    "s3": "retrieval",
    "several-gpus": "retrieval",
    "torchrun": "epoch_0002.pt",
    "workstation": "nothing to remove",
}
"""What the last commands of each guide have to say."""


LONG = ("prefect-server", "several-gpus")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A shell of which nothing is left behind, whatever it started."""
    processes: list[subprocess.Popen[str]] = []

    def environment() -> dict[str, str]:
        bin_folder = Path(sys.executable).parent
        return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_"))} | {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "SKELSTREAM": str(ROOT),
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "HOME": str(tmp_path),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def run(script: str) -> str:
        folder = tmp_path / "work"
        folder.mkdir()
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=folder, env=environment(), stdout=said, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip
            processes.append(process)
            status = process.wait(10 * PATIENCE)
        text = (tmp_path / "said").read_text()
        logs = "".join(f"\n--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("*.log")))
        assert status == 0, text[-6000:] + logs
        return text

    yield run
    for process in processes:
        for left in psutil.process_iter(["pid"]):
            try:
                if os.getsid(left.pid) == process.pid or str(tmp_path) in left.environ().get("PREFECT_HOME", ""):
                    left.send_signal(signal.SIGKILL)
            except (psutil.Error, OSError):
                continue
        process.wait()


def script_of(guide: Path) -> str:
    """All that the guide says to type; the ports are exchanged, for others may use them here."""
    blocks = re.findall(r"```sh\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    script = "\n".join(blocks)
    for port in PORTS:
        script = re.sub(rf"\b{port}\b", str(free_port()), script)
    server = re.search(r"PREFECT_API_URL=http://127\.0\.0\.1:(\d+)/api", script)
    return f"export PREFECT_SERVER_API_PORT={server[1]}\n{script}" if server else script


def test_every_guide_is_followed_here() -> None:
    assert {guide.stem for guide in GUIDES} == set(SHOWS)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_works_word_by_word(guide: Path, shell: Callable[[str], str]) -> None:
    if guide.stem in LONG and "GUIDES" not in os.environ:
        pytest.skip("takes minutes with a server and workers: make guides (test_deployments does the same in parts)")
    said = shell(script_of(guide))
    assert SHOWS[guide.stem] in said
