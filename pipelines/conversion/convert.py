"""Raw archives -> one store folder, in parallel and resumable.

A conversion goes through units of work (`conversion.stages`) in a hidden folder beside the result. Each unit writes its
files at temporary names and a marker last, so a conversion that was killed anywhere goes on where it was, and the
bytes do not depend on workers, order or kills. The folder gets its name when everything is in it. A result on a remote
place is made in a local folder first and then copied, its manifest last.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from pipelines.archives import inventory_digest
from pipelines.conversion.recordings import Recording, list_recordings
from pipelines.conversion.runners import Runner, open_runner
from pipelines.conversion.stages import Plan, run_stages
from pipelines.conversion.workspace import disk_errors, locked
from pipelines.preprocessing import recipes
from shards import catalog
from shards.cores import count_cores
from shards.encoding import Storage
from shards.errors import ConfigError, RawInputError, StoreError
from shards.files import sync
from shards.manifest import MANIFEST, SHARDS, STORE, Manifest, Outcome, fingerprint, folder_name, read_manifest
from shards.places import Place, place
from shards.remote import failures
from shards.upload import upload

OnError = Literal["stop", "drop"]

MISSING = "on the publishers' list of samples with missing or incomplete skeletons"

SHOWN = 10
"""Dropped or repaired samples that a summary names; the manifest names all."""


@dataclass(frozen=True)
class ConvertResult:
    """A finished store folder; `reused` if it was there before."""

    folder: Place
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
        lines += [f"  unfinished, of other input or options: {path}" for path in self._unfinished()]
        return "\n".join(lines)

    def _unfinished(self) -> list[Path]:
        """Work folders of other conversions by this recipe: at work, or left by one that nobody went on with."""
        if not isinstance(self.folder, Path):
            return []
        return sorted(self.folder.parent.glob(f".{self.manifest.source}-{self.manifest.recipe}-*.partial"))


def convert(
    source: str,
    raw: Sequence[Place | str],
    data: Place | str,
    *,
    recipe: str = "pcm3",
    dtype: Storage = "float32",
    on_error: OnError = "stop",
    scheduler: str | None = None,
    workers: int | None = None,
    progress: bool = False,
    samples_per_shard: int = 1024,
    scratch: Path | None = None,
) -> ConvertResult:
    """Turn raw archives into `data/<source>-<recipe>-<fingerprint>`, or find it there and do nothing.

    Args:
        source: name of the source.
        raw: folders, zips and files; paths or URLs.
        data: folder that holds the results; path or URL.
        recipe: name of the recipe.
        dtype: how the frames are stored: float32, float16, or fixed (steps of 0.1 mm).
        on_error: what a sample that cannot be used does: stop the conversion, or be dropped with its reason in the
            manifest. Samples and label rows that the publishers are known to have wrong are dropped in either case.
        scheduler: address of a running dask scheduler, whose workers see the same paths.
        workers: threads of this process; None takes one a core, 0 and 1 work in the calling thread.
        progress: show a bar for each stage.
        samples_per_shard: samples in a full tar shard.
        scratch: local folder to work in when `data` is a URL; None takes `default_scratch()`.

    Raises:
        ConfigError: an option cannot work.
        RawInputError: something is wrong with the raw files; of several faulty samples the first by key is named.
        StoreError: the folder is in use or incomplete, cannot be written, or the disk is full.
    """
    _check(dtype, on_error, workers, samples_per_shard)
    task = _identify(source, raw, data, recipe, dtype, samples_per_shard, progress)
    final = task.final
    local = final if isinstance(final, Path) else (scratch or default_scratch()).absolute() / final.name
    if _is_finished(final):
        _tidy(local, final)
        return ConvertResult(final, True, read_manifest(final))
    plan = _plan(task, local, on_error, progress)
    with disk_errors(local.parent), locked(local):
        reused = _is_finished(final)  # somebody else may have made it since
        if not reused:
            with open_runner(scheduler, count_cores() if workers is None else workers) as runner:
                _make(plan, local, runner, partial(_refuse_changed, task, raw))
            if not isinstance(final, Path):
                upload(local, final, read_manifest(local).files, progress=progress)
    _tidy(local, final)
    return ConvertResult(final, reused, read_manifest(final))


def default_scratch() -> Path:
    """Where results for remote places are made: a folder that survives a restart, so that a conversion can go on.

    Raises:
        ConfigError: the user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skelstream"
    except RuntimeError:
        raise ConfigError(
            "HOME: found no home folder, expected one to make a remote result in: name another folder by --scratch"
        ) from None


def find_existing(
    source: str,
    raw: Sequence[Place | str],
    data: Place | str,
    *,
    recipe: str = "pcm3",
    dtype: Storage = "float32",
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

    source: str
    recipe: str
    dtype: Storage
    samples_per_shard: int
    listed: list[Recording]
    steps: list[dict[str, Any]]
    inventory: str
    fingerprint: str
    final: Place


def _identify(
    source: str,
    raw: Sequence[Place | str],
    data: Place | str,
    recipe: str,
    dtype: Storage,
    samples_per_shard: int,
    progress: bool,
) -> _Identity:
    steps = [*recipes.recipe(recipe, source).steps, {"name": "pack", "samples_per_shard": samples_per_shard}]
    listed = list_recordings(source, [_absolute(path) for path in raw], progress)
    inventory = inventory_digest(file for recording in listed for file in recording.files)
    identity = fingerprint(source, inventory, steps, dtype)
    final = _absolute(data) / folder_name(source, recipe, identity)
    return _Identity(source, recipe, dtype, samples_per_shard, listed, steps, inventory, identity, final)


def _absolute(path: Place | str) -> Place:
    # dask workers may run in another folder
    found = place(path)
    return found.absolute() if isinstance(found, Path) else found


def _plan(task: _Identity, final: Path, on_error: OnError, progress: bool) -> Plan:
    missing = catalog.missing_samples(task.source)
    used = [recording for recording in task.listed if recording.key not in missing]
    if not used:
        raise RawInputError(f"found {len(task.listed)} files, each {MISSING}, expected at least one other")
    return Plan(
        source=task.source,
        recipe=task.recipe,
        steps=task.steps,
        dtype=task.dtype,
        samples_per_shard=task.samples_per_shard,
        inventory=task.inventory,
        fingerprint=task.fingerprint,
        recordings=used,
        excused=[Outcome(key=recording.key, reason=MISSING) for recording in task.listed if recording.key in missing],
        strict=on_error == "stop",
        work=_work(final),
        progress=progress,
    )


def _check(dtype: str, on_error: str, workers: int | None, samples_per_shard: int) -> None:
    for name, value, known in (("dtype", dtype, Storage), ("on_error", on_error, OnError)):
        if value not in get_args(known):
            raise ConfigError(f"found {name} {value!r}, expected {', '.join(get_args(known))}")
    if workers is not None and workers < 0:
        raise ConfigError(f"found {workers} workers, expected 0 or more")
    if samples_per_shard < 1:
        raise ConfigError(f"found {samples_per_shard} samples per shard, expected 1 or more")


def _is_finished(final: Place) -> bool:
    if not isinstance(final, Path):  # without a manifest it is an upload to go on with
        try:
            final.fs.invalidate_cache()  # another process may have written since
            return (final / MANIFEST).exists()
        except failures(final) as error:
            raise StoreError(f"{final}: found no answer ({error}), expected a folder that can be read") from error
    with disk_errors(final.parent):
        finished = (final / MANIFEST).exists()
        if not finished and final.exists():
            raise StoreError(f"{final}: found no {MANIFEST} in it, expected a finished store: remove the folder")
        return finished


def _work(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _make(plan: Plan, final: Path, runner: Runner, refuse_changed: Callable[[], None]) -> None:
    if _is_finished(final):  # made by a run that did not come to the end of its upload
        return
    if not (plan.work / MANIFEST).exists():
        run_stages(plan, runner, refuse_changed)
    _publish(plan.work, final)


def _refuse_changed(task: _Identity, raw: Sequence[Place | str]) -> None:
    listed = list_recordings(task.source, [_absolute(path) for path in raw])
    if inventory_digest(file for recording in listed for file in recording.files) != task.inventory:
        raise RawInputError("found other raw files than at the start, expected none to change: run again")


def _tidy(local: Path, final: Place) -> None:
    """Remove all that is local of a result that has been uploaded, by this process or by one that was killed then.

    The folder loses its name first: what has the name is whole.
    """
    gone = local.with_name(f".{local.name}.uploaded")
    left = [path for path in (local, gone, _work(local)) if path.exists()]
    if isinstance(final, Path) or not left:
        return
    with suppress(StoreError), disk_errors(local.parent), locked(local):  # else somebody else does, or it stays
        shutil.rmtree(gone, ignore_errors=True)
        if local.exists():
            local.rename(gone)
        for path in (gone, _work(local)):
            shutil.rmtree(path, ignore_errors=True)


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
