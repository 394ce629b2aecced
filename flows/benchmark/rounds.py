"""The rounds of a benchmark: what the present one is called, and which runs those before were.

<runs>/benchmarks/<name>/rounds/<round>.json   its cells and their run folders; there once the round is complete
                         .open                 the round by date that was begun last, until its end is reached
                         .lock                 held by the process that carries out the benchmark
"""

import fcntl
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime

from pydantic import ValidationError

from flows.benchmark.config import BenchmarkConfig
from flows.run_folder import revision
from shards.errors import ConfigError
from shards.files import write_atomic
from shards.frozen import Frozen

ONCE = "once"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OPEN = ".open"


class CellRecord(Frozen):
    """A cell of a complete round.

    Attributes:
        run: its folder, relative to the folder of all runs.
    """

    method: str
    dataset: str
    protocol: str
    stream: str
    seed: int
    run: str
    tasks: tuple[str, ...]


class RoundRecord(Frozen):
    """A complete round; `number` counts them from 1."""

    round: str
    number: int
    cells: tuple[CellRecord, ...]


def name_round(config: BenchmarkConfig, asked: str | None = None, today: date | None = None) -> str:
    """What the round is called that would be begun or gone on with now.

    A round by date that was interrupted goes on under its own date.

    Args:
        config: of the benchmark.
        asked: by the user, to go on with an earlier one.
        today: UTC.

    Raises:
        ConfigError: a name that cannot be, or a revision that is not known.
    """
    if asked is not None:
        if (config.round == ONCE) != (asked == ONCE) or not _NAME.fullmatch(asked):
            raise ConfigError(f"--round {asked}: expected the name of a round of {config.name} (round: {config.round})")
        return asked
    if config.round == ONCE:
        return ONCE
    if config.round == "revision":
        return _revision()
    begun = config.folder / _OPEN
    if begun.is_file():
        return begun.read_text(encoding="utf-8").strip()
    return (today or datetime.now(UTC).date()).isoformat()


def _revision() -> str:
    found = revision()
    if found == "unknown" or "+" in found:
        raise ConfigError(
            f"round: found the revision {found}, expected a checkout without changes; or take round: date"
        )
    return found[:12]


@contextmanager
def begun_round(config: BenchmarkConfig, asked: str | None = None) -> Iterator[str]:
    """Hold the benchmark alone and yield the name of the round, which stays open where the block is interrupted.

    An error ends it all the same: a schedule has to come to the next date.

    Raises:
        ConfigError: another process is at work on the benchmark; or as `name_round`.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    with (config.folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{config.folder}: found another process at work on it, expected to be alone") from None
        for half_written in config.folder.rglob(".*.tmp"):  # by a process that was killed
            half_written.unlink()
        name = name_round(config, asked)
        if config.round == "date":
            write_atomic(config.folder / _OPEN, f"{name}\n".encode())
        try:
            yield name
        except Exception:
            (config.folder / _OPEN).unlink(missing_ok=True)
            raise
        (config.folder / _OPEN).unlink(missing_ok=True)


def new_round(rounds: Sequence[RoundRecord], name: str, cells: Sequence[CellRecord]) -> RoundRecord:
    """The record of a round beside the others; one of the same name keeps its number."""
    own = next((record.number for record in rounds if record.round == name), None)
    number = own or 1 + max((record.number for record in rounds), default=0)
    return RoundRecord(round=name, number=number, cells=tuple(cells))


def read_rounds(config: BenchmarkConfig) -> list[RoundRecord]:
    """The complete rounds, the oldest first.

    Raises:
        ConfigError: a file that is no round's.
    """
    found = []
    for path in sorted((config.folder / "rounds").glob("*.json")):
        try:
            found.append(RoundRecord.model_validate(json.loads(path.read_bytes())))
        except (OSError, ValueError, ValidationError) as error:
            raise ConfigError(f"{path}: found no readable round ({error}), expected one: remove it") from error
    return sorted(found, key=lambda record: record.number)
