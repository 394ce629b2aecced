"""What a process knows of being one of several ranks, and how it tells an error to whoever started them.

torchrun, and `flows.machine.launch` which uses the same launcher, describe a rank by environment variables. Imports
nothing heavy: the command line asks before it knows what to do.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

USER, BUG = "user", "bug"
RUN_ID = "skelstream"
"""Of the ranks that `flows.machine.launch` starts, in TORCHELASTIC_RUN_ID."""


def is_rank() -> bool:
    """Whether this process is one of the ranks of a distributed run."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def is_leader() -> bool:
    """Whether this is rank 0, which alone prints and writes; so is a process that is no rank."""
    return os.environ["RANK"] == "0" if is_rank() else True


def leave_error(text: str, kind: str) -> bool:
    """Write why this rank fails to where its launcher reads it; whether that is enough.

    `flows.machine.launch` shows the error once, however many ranks met it. torchrun shows it in a report at the end;
    there the leader should tell the user at once.

    Args:
        text: for the user; of a "bug", the traceback.
        kind: `USER` or `BUG`.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not is_rank() or not path:
        return False
    message = {"message": text, "extraInfo": {"timestamp": str(int(time.time())), "py_callstack": text, "kind": kind}}
    Path(path).write_text(json.dumps({"message": message}), encoding="utf-8")
    return os.environ.get("TORCHELASTIC_RUN_ID") == RUN_ID or not is_leader()


def left_errors(folder: Path) -> list[tuple[str, str]]:
    """(kind, text) of what `leave_error` wrote anywhere below a launcher's folder, users' errors first."""
    found = []
    for path in sorted(folder.rglob("error.json")):
        try:
            message = json.loads(path.read_text(encoding="utf-8"))["message"]
            found.append((str(message["extraInfo"]["kind"]), str(message["message"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half-written by a rank that was killed, or by something else in that process
    return sorted(found, key=lambda error: error[0] != USER)


def leave(status: int) -> NoReturn:
    """End the process; a rank without the rest of what Python does at its end.

    A thread of gloo that lets go of its last tensor while the interpreter is taken down aborts the process: one run of
    two ranks in four ended so once Prefect, which had delayed the end, was no longer imported.
    """
    if is_rank():
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)
    raise SystemExit(status)
