"""Raw archives -> one store folder, in parallel and resumable. The only place that knows dask.

A conversion goes through units of work (`pipelines.stages`) in a hidden work folder beside the result. Each unit writes
its files at temporary names and a marker last, so a conversion that was killed anywhere goes on where it was, and the
bytes do not depend on workers, order or kills. The folder gets its name when everything is in it.
"""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from pipelines.archives import inventory_digest
from pipelines.parts import FILES_PER_PART, Recording, list_recordings
from pipelines.preprocessing import recipes
from pipelines.stages import DType, Plan, Runner, Unit, run_stages
from shards import catalog
from shards.errors import ConfigError, RawInputError, StoreError
from shards.manifest import (
    MANIFEST,
    SHARDS,
    STORE,
    Manifest,
    Outcome,
    fingerprint,
    folder_name,
    read_manifest,
    sync,
)

OnError = Literal["stop", "drop"]

MISSING = "on the publishers' list of samples with missing or incomplete skeletons"

_CONNECT_SECONDS = 10
_WORKERS_SECONDS = 30

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


SHOWN = 10
"""Dropped or repaired samples that a summary names; the manifest names all."""


@dataclass(frozen=True)
class ConvertResult:
    """A finished store folder; `reused` if it was there before."""

    folder: Path
    reused: bool
    manifest: Manifest

    def summary(self) -> str:
        """What was made or found, and the first of everything left out or mended, for people to read."""
        counts = self.manifest.describe()
        lines = [f"wrote {self.folder}: {counts}"]
        if self.reused:
            lines = [f"found {self.folder}: {counts} (same input, same recipe: nothing to do)"]
        for title, outcomes in (("dropped", self.manifest.dropped), ("repaired", self.manifest.repaired)):
            lines += [f"  {title} {outcome.key}: {outcome.reason}" for outcome in outcomes[:SHOWN]]
            if len(outcomes) > SHOWN:
                lines.append(f"  ... and {len(outcomes) - SHOWN} more {title}, all in {self.folder / MANIFEST}")
        return "\n".join(lines)


def convert(
    source: str,
    raw: Sequence[Path],
    data: Path,
    *,
    recipe: str = "pcm3",
    dtype: DType = "float32",
    on_error: OnError = "stop",
    scheduler: str | None = None,
    workers: int | None = None,
    progress: bool = False,
    samples_per_shard: int = 1024,
) -> ConvertResult:
    """Turn raw archives into `data/<source>-<recipe>-<fingerprint>`, or find it there and do nothing.

    Args:
        source: name of the source.
        raw: folders, zips and files.
        data: folder that holds the results.
        recipe: name of the recipe.
        dtype: of the frames in the shards; the store keeps float32.
        on_error: what a sample that cannot be used does: stop the conversion, or be dropped with its reason in the
            manifest. Samples and label rows that the publishers are known to have wrong are dropped in either case.
        scheduler: address of a running dask scheduler, whose workers see the same paths.
        workers: processes of a local dask cluster; None takes one a core, 0 works in this process.
        progress: show a bar for each stage.
        samples_per_shard: samples in a full tar shard.

    Raises:
        ConfigError: an option cannot work.
        RawInputError: something is wrong with the raw files; of several faulty samples the first by key is named.
        StoreError: the folder is in use or incomplete, cannot be written, or the disk is full.
    """
    _check(dtype, on_error, workers, samples_per_shard)
    task = _identify(source, raw, data, recipe, dtype, samples_per_shard, progress)
    if _is_finished(task.final):
        return ConvertResult(task.final, True, read_manifest(task.final))
    final, listed = task.final, task.listed
    missing = catalog.missing_samples(source)
    used = [recording for recording in listed if recording.key not in missing]
    if not used:
        raise RawInputError(f"found {len(listed)} files, each {MISSING}, expected at least one other")
    plan = Plan(
        source=source,
        recipe=recipe,
        steps=task.steps,
        dtype=dtype,
        samples_per_shard=samples_per_shard,
        inventory=task.inventory,
        fingerprint=task.fingerprint,
        recordings=used,
        excused=[Outcome(key=recording.key, reason=MISSING) for recording in listed if recording.key in missing],
        strict=on_error == "stop",
        work=final.with_name(f".{final.name}.partial"),
        progress=progress,
    )
    reused = _make(plan, final, scheduler, workers)
    return ConvertResult(final, reused, read_manifest(final))


def find_existing(
    source: str,
    raw: Sequence[Path],
    data: Path,
    *,
    recipe: str = "pcm3",
    dtype: DType = "float32",
    samples_per_shard: int = 1024,
) -> ConvertResult | None:
    """The finished store that `convert` would find for the same arguments, else None; writes nothing.

    Raises:
        ConfigError, RawInputError, StoreError: as `convert`, as far as names and inventory tell.
    """
    final = _identify(source, raw, data, recipe, dtype, samples_per_shard, progress=False).final
    return ConvertResult(final, True, read_manifest(final)) if _is_finished(final) else None


@dataclass(frozen=True)
class _Identity:
    """What is to be converted into which folder."""

    listed: list[Recording]
    steps: list[dict[str, Any]]
    inventory: str
    fingerprint: str
    final: Path


def _identify(
    source: str, raw: Sequence[Path], data: Path, recipe: str, dtype: str, samples_per_shard: int, progress: bool
) -> _Identity:
    steps = [*recipes.recipe(recipe, source).steps, {"name": "pack", "samples_per_shard": samples_per_shard}]
    # Absolute paths, because dask workers may run in another folder.
    listed = list_recordings(source, [Path(path).absolute() for path in raw], progress)
    inventory = inventory_digest(file for recording in listed for file in recording.files)
    identity = fingerprint(source, inventory, steps, dtype)
    final = data.absolute() / folder_name(source, recipe, identity)
    return _Identity(listed, steps, inventory, identity, final)


def _check(dtype: str, on_error: str, workers: int | None, samples_per_shard: int) -> None:
    for name, value, known in (("dtype", dtype, DType), ("on_error", on_error, OnError)):
        if value not in get_args(known):
            raise ConfigError(f"found {name} {value!r}, expected {' or '.join(get_args(known))}")
    if workers is not None and workers < 0:
        raise ConfigError(f"found {workers} workers, expected 0 or more")
    if samples_per_shard < 1:
        raise ConfigError(f"found {samples_per_shard} samples per shard, expected 1 or more")


def _is_finished(final: Path) -> bool:
    there = final.exists()
    if there and not (final / MANIFEST).exists():
        raise StoreError(f"{final}: found no {MANIFEST} in it, expected a finished store: remove the folder")
    return there


def _make(plan: Plan, final: Path, scheduler: str | None, workers: int | None) -> bool:
    """Make `final`; True if somebody else has just done so."""
    with _disk_errors(final.parent), _locked(final):
        if _is_finished(final):
            return True
        if not (plan.work / MANIFEST).exists():
            with _runner(scheduler, workers, -(-len(plan.recordings) // FILES_PER_PART)) as runner:
                run_stages(plan, runner)
        _publish(plan.work, final)
        return False


def _publish(work: Path, final: Path) -> None:
    """Give the finished work folder its name."""
    for path in work.iterdir():
        if path.name not in (MANIFEST, STORE, SHARDS):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    sync(work)
    work.rename(final)
    sync(final.parent)


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """Hold the only right to write this result. The kernel releases it when the process dies, however it dies."""
    final.parent.mkdir(parents=True, exist_ok=True)
    path = final.with_name(f".{final.name}.lock")
    descriptor = _acquire(path, final)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, final: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder that left between our two calls took the file with it: then this lock is on nothing.
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise StoreError(f"{final}: found another conversion writing it, expected to be the only one") from None
        os.close(descriptor)


@contextmanager
def _disk_errors(data: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            found, expected = "no space left", "room for the store: make some and run again, it goes on from here"
        elif error.errno in _UNWRITABLE:
            found, expected = f"a folder that cannot be written ({error})", "a writable one"
        else:
            raise
        raise StoreError(f"{data}: found {found}, expected {expected}") from error


@contextmanager
def _runner(scheduler: str | None, workers: int | None, num_parts: int) -> Iterator[Runner]:
    if scheduler is not None:
        with _connection(scheduler) as client:
            yield partial(_run_on, client)
        return
    if workers is None:
        workers = min(_cores(), num_parts) if num_parts > 1 else 0  # a cluster takes seconds to start
    if workers == 0:
        yield lambda units: map(_call, units)
        return
    with _cluster(workers) as client:
        yield partial(_run_on, client)


def _cores() -> int:
    from dask.system import CPU_COUNT  # knows the limits of containers

    return int(CPU_COUNT)


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    _silence()
    with (
        tempfile.TemporaryDirectory(prefix="skelstream-") as scratch,
        LocalCluster(  # type: ignore[no-untyped-call]  # distributed is untyped
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # None would open it to the network
            memory_limit=0,  # a unit needs little and always the same; a limit could only kill it
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]  # distributed is untyped
    ):
        yield client


def _silence() -> None:
    """Dask tells of every connection it closes; what goes wrong reaches the user as an error of ours."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


@contextmanager
def _connection(address: str) -> Iterator[Any]:
    from distributed import Client

    _silence()
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)  # type: ignore[no-untyped-call]  # distributed is untyped
        client.wait_for_workers(1, timeout=_WORKERS_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(f"found no dask scheduler with workers at {address} ({error}), expected one") from error
    with client:
        yield client


def _run_on(client: Any, units: Sequence[Unit]) -> Iterator[None]:
    """Submit units a few at a time, so that neither the scheduler nor this process holds them all.

    Results are taken in order of submission: of several faults, the one that surfaces is always the first.
    """
    from distributed import KilledWorker, wait

    window = 3 * sum(client.ncores().values())
    pending: deque[Any] = deque()
    try:
        for unit in units:
            pending.append(client.submit(_call, unit, pure=False))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except KilledWorker as error:
        raise StoreError(f"found workers that died ({error}), expected them to live: is memory short?") from error
    except Exception:
        wait(list(pending))  # type: ignore[no-untyped-call]  # what is begun may be writing
        raise
    finally:
        client.cancel(list(pending))


def _call(unit: Unit) -> None:
    unit()
