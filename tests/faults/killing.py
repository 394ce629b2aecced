"""The command line in processes that kill themselves at a chosen place."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# For every line that it reads a child of a process that has made the imports: its arguments, its working directory,
# where its output goes, and where it kills itself: the function, its how manieth call, and whether before, halfway or
# after. `PLACES` and `main` come from what stands before this.
_CHILDREN = """
import json, os, signal, sys
# what torch and a loader import at their first use: here once, not in every child
import pipelines.views.kernels
import torch._dynamo
import torch.fx.experimental.symbolic_shapes
import tensorboard.summary.writer.record_writer
from flows.cli.main import main


def die():
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def half(path, data):
    path.with_name(f".{path.name}.01234567.tmp").write_bytes(data[: len(data) // 2])


def arm(place, number, when):
    module, name = PLACES[place]
    plain, calls = getattr(module, name), []
    def armed(*arguments, **options):
        calls.append(None)
        if len(calls) != number:
            return plain(*arguments, **options)
        if when == "halfway":
            half(*arguments)
        if when == "after":
            plain(*arguments, **options)
        die()
    setattr(module, name, armed)


for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(order["folder"])
        os.dup2(os.open(order["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        if order["fault"]:
            arm(*order["fault"])
        code = main(order["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Command:
    """`skelstream` in processes of its own, one at a time.

    Args:
        folder: new or empty, of what this writes.
        places: program that names in `PLACES` where a child may die: name -> (module, function).
    """

    def __init__(self, folder: Path, places: str) -> None:
        program = folder / "program.py"
        program.write_text(places + _CHILDREN)
        self.errors = (folder / "errors.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(program)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def start(self, arguments: list[str], *fault: object, folder: Path = ROOT, out: str = os.devnull) -> int:
        """The process id; `fault` is place, number and "before", "halfway" or "after"."""
        assert self.process.stdin is not None
        order = {"arguments": arguments, "fault": fault, "folder": str(folder), "out": out}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._number()

    def end(self) -> int:
        """The exit status; minus the signal that ended it."""
        return self._number()

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def _number(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.said()
        return int(line)

    def close(self) -> None:
        self.process.communicate()
        self.errors.close()
