"""Pages of docs/guides, typed as they stand: every `sh` block of a page, in order, in one shell in an empty folder."""

import os
import re
import signal
import subprocess
from pathlib import Path

import psutil

from tests.patience import PATIENCE
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("4200", "8786", "29500", "5555")


def script_of(guide: Path) -> str:
    """All that the guide says to type; the ports are exchanged, for others may use them here."""
    blocks = re.findall(r"```sh\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    script = "\n".join(blocks)
    for port in PORTS:
        script = re.sub(rf"\b{port}\b", str(free_port()), script)
    server = re.search(r"PREFECT_API_URL=http://127\.0\.0\.1:(\d+)/api", script)
    return f"export PREFECT_SERVER_API_PORT={server[1]}\n{script}" if server else script


def type_in_shell(script: str, folder: Path, bin_folder: Path) -> str:
    """What a shell says in `folder`/work, which it finds empty; nothing is left behind, whatever the script started.

    Args:
        script: has to end well.
        folder: for its home, and what it says.
        bin_folder: of `python` and `skelstream`.
    """
    work, said = folder / "work", folder / "said"
    work.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_"))}
    environment = kept | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "SKELSTREAM": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    with said.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=work, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        status = process.wait(10 * PATIENCE)
    finally:
        _end(process, folder)
    text = said.read_text()
    logs = "".join(f"\n--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(work.glob("*.log")))
    assert status == 0, text[-6000:] + logs
    return text


def _end(process: "subprocess.Popen[str]", folder: Path) -> None:
    """Kill what the shell left, and what belongs to its Prefect."""
    for left in psutil.process_iter(["pid"]):
        try:
            if os.getsid(left.pid) == process.pid or str(folder) in left.environ().get("PREFECT_HOME", ""):
                left.send_signal(signal.SIGKILL)
        except (psutil.Error, OSError):
            continue
    process.wait()
