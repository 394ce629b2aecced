"""A run's folder: what identifies the run in it, and who may write there."""

import fcntl
import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel

from flows.config import PretrainConfig
from shards.errors import ConfigError
from shards.files import name_refusals, write_atomic
from shards.frozen import Frozen
from shards.manifest import Manifest
from shards.places import Place
from shards.registry import plugin_versions
from shards.skeleton import Stream

IMPORT = "import.json"


class RunRecord(Frozen):
    """`run.json`: what identifies a run besides its configuration.

    Attributes:
        store, recipe, fingerprint: of the data set that downstream tasks see.
        also: fingerprints of the further sources of a mixture.
        revision: of the code.
        versions: of what computed it.
    """

    store: str
    recipe: str
    fingerprint: str
    also: tuple[str, ...] = ()
    revision: str
    versions: dict[str, str]


class ImportRecord(Frozen):
    """`import.json` of a run folder: where its weights come from.

    Attributes:
        repository: whose release it is.
        file, sha256: name and content of the file.
        stream: which encoder was taken, or for PCM3, what the user says it was trained on.
        epoch: whole epochs trained; None when the file does not say.
        lacks: parts of the model that the file does not hold, so that training cannot go on from it as it was.
    """

    repository: str
    file: str
    sha256: str
    stream: Stream
    epoch: int | None
    lacks: tuple[str, ...]


def read_import(run: Path) -> ImportRecord | None:
    """Where a run's weights come from; None when it was trained here."""
    path = run / IMPORT
    if not path.is_file():
        return None
    try:
        return ImportRecord.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: found no readable record ({error}), expected that of an import") from error


def read_run(run: Path) -> RunRecord:
    """The record of a run folder; ConfigError when it is none."""
    try:
        return RunRecord.model_validate_json((run / "run.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{run}: found no readable run.json ({error}), expected the folder of a pre-training run"
        ) from error


def versions() -> dict[str, str]:
    """What computed a run or a result: our code, the packages that add methods or encoders, and what is below."""
    below = {"torch": torch.__version__, "python": platform.python_version()}
    return {"skelstream": version("skelstream"), **plugin_versions(), **below}


def revision() -> str:
    """The git revision of the code, "+changes" when the tree differs from it; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        top, head = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.CalledProcessError):
        return "unknown"
    if Path(top) != root:  # installed somewhere inside another project's checkout
        return "unknown"
    return head + ("+changes" if changes.strip() else "")


def _git(folder: Path, *arguments: str) -> str:
    # else status writes the index anew, and one that is killed leaves its lock in the user's checkout
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def new_record(store: Place, manifest: Manifest, also: tuple[str, ...] = ()) -> RunRecord:
    """The record of a run of this code on that store; `also` as of `RunRecord`."""
    return RunRecord(
        store=str(store.absolute() if isinstance(store, Path) else store),
        recipe=manifest.recipe,
        fingerprint=manifest.fingerprint,
        also=also,
        revision=revision(),
        versions=versions(),
    )


def write_run(run: Path, config: PretrainConfig, record: RunRecord) -> None:
    """Write `run.json` and, last, `config.json`: a folder with the latter alone is another program's."""
    write_model(run / "run.json", record)
    write_model(run / "config.json", config)


def write_model(path: Path, model: BaseModel) -> None:
    """Write a model as JSON, whole or not at all; equal models give equal bytes."""
    write_atomic(path, (json.dumps(model.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode())


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Hold the only right to train in the folder: a schedule may fire while the last run still trains.

    The kernel takes the right back when the process dies, however it dies.

    Raises:
        ConfigError: another process trains in it.
        DiskError: nothing can be written there.
    """
    with name_refusals(run, what="a run"):
        run.mkdir(parents=True, exist_ok=True)
        file = (run / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{run}: found another process training in it, expected to be the only one") from None
        yield
