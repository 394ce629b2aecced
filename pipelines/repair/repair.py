"""Repair of a finished store: whatever differs from its manifest is made again, proved by its hash, and put in place.

Everything is made in a hidden folder beside the store, and takes its place when all of it has the size and the SHA-256
that the manifest records. So a repair that was killed anywhere has harmed nothing, and goes on when it is run again.

    .<store>.repair/made/       files that are proved, at their paths in the store
    .<store>.repair/view/       the store as it will be, of links to sound and made files; shards are made of it
    .<store>.repair/scratch/    a second store; of it the damaged files are taken
    .<store>.repair/<digest>/   recordings that were parsed again
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.conversion.pack import ShardPlan, ShardUnit, plan_packing
from pipelines.conversion.runners import open_runner
from pipelines.conversion.workspace import disk_errors, locked
from pipelines.preprocessing.recipes import recipe
from pipelines.repair.reparse import RawInput, list_raw, recipe_difference, reparse, work_name
from pipelines.repair.rows import frames_again, recordings_in, rows_again, rows_of
from shards.cores import count_cores
from shards.errors import ConfigError, RawInputError, SkelstreamError, StoreError
from shards.files import sha256_file, sync
from shards.manifest import MANIFEST, SHARDS, STORE, FileEntry, Manifest, read_manifest
from shards.places import Place
from shards.progress import Progress
from shards.store import FRAMES_PER_SHARD, create, frame_shard_file, open_store, write_frames
from shards.verify.store import check_files, check_identity

_FRAMES = re.compile(rf"{re.escape(STORE)}/frames/c/(\d+)/0/0/0")


def repair(folder: Place, raw: Sequence[Place] = (), progress: bool = False) -> list[str]:
    """Make every file of a store again that is missing or has another size or content than its manifest records.

    Shards and their indexes come from the store, files of the store from the raw input: for frames the recordings that
    lie in them are parsed again, for tables all. Nothing else is touched; files that the manifest does not list stay.

    Args:
        folder: of the store, local.
        raw: what the store was converted from, wherever it lies now; needed for files of the store only.
        progress: whether to show progress bars.

    Returns:
        One line for each file that was written, then one for each that the manifest does not list.

    Raises:
        ConfigError: the folder is remote.
        RawInputError: the raw input is not the one that was converted.
        StoreError: the manifest cannot be read or contradicts itself, another process writes the folder, raw input is
            needed and not given, or a file cannot be made as it was. Then nothing has been changed.
    """
    if not isinstance(folder, Path):
        raise ConfigError(f"{folder}: found a remote folder, expected a local one: repair a copy and upload it")
    folder = folder.absolute()
    _read_manifest(folder)
    with disk_errors(folder.parent), locked(folder):
        manifest = _read_manifest(folder)
        check = check_files(folder, manifest, progress)
        job = _Job(folder, manifest, tuple(check.broken), progress)
        try:
            lines = _repair(job, raw) if check.broken else []
        except SkelstreamError:
            shutil.rmtree(job.work, ignore_errors=True)  # to go on would come to the same
            raise
        shutil.rmtree(job.work, ignore_errors=True)
    return [*lines, *(f"{path}: found a file that the manifest does not list; it stays" for path in check.strays)]


def _read_manifest(folder: Path) -> Manifest:
    try:
        manifest = read_manifest(folder)
    except StoreError as error:
        raise StoreError(f"{error}; without it nothing can be proved: run preprocess again") from error
    for problem in check_identity(folder, manifest):
        if problem.startswith(MANIFEST):  # a folder of another name is no harm
            raise StoreError(f"{folder}: {problem}; such a manifest proves nothing: run preprocess again")
    return manifest


@dataclass(frozen=True)
class _Job:
    """What is to be repaired: files `broken` of the store in `folder`."""

    folder: Path
    manifest: Manifest
    broken: tuple[str, ...]
    progress: bool

    @property
    def work(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.repair")

    @property
    def made(self) -> Path:
        return self.work / "made"

    @property
    def view(self) -> Path:
        return self.work / "view"

    @property
    def scratch(self) -> Path:
        return self.work / "scratch" / STORE

    @property
    def entries(self) -> dict[str, FileEntry]:
        return {entry.path: entry for entry in self.manifest.files}


@dataclass(frozen=True)
class _Todo:
    """Broken files by what they are made of: tables of the store, numbers of its files of frames, shards."""

    tables: list[str]
    frames: list[int]
    shards: list[str]


def _repair(job: _Job, raw: Sequence[Place]) -> list[str]:
    todo = _sort(job)
    store_files = [path for path in job.broken if path.startswith(f"{STORE}/")]
    if store_files and not raw:
        raise StoreError(
            f"{job.folder}: found {len(store_files)} broken files that only the raw input can give back "
            f"({', '.join(store_files)}), expected the raw archives of the store, named behind DATA"
        )
    _link(job)
    if todo.tables or todo.frames:
        _make_store(job, todo, _list_raw(job, raw))
        _link(job)
    _make_shards(job, todo.shards)
    return [_put(job, path) for path in sorted(job.broken, key=lambda path: (path.startswith(SHARDS), path))]


def _sort(job: _Job) -> _Todo:
    """What is left to make; files that an earlier run has made and proved are made no more."""
    shutil.rmtree(job.view, ignore_errors=True)
    shutil.rmtree(job.scratch, ignore_errors=True)
    shards = {path for entry in job.manifest.shards for path in (entry.path, entry.index)}
    todo = _Todo([], [], [])
    for path in job.broken:
        match = _FRAMES.fullmatch(path)
        if match is None and path not in shards and not path.startswith(f"{STORE}/"):
            raise StoreError(f"{path}: found a broken file of unknown kind, expected one of the store or of a shard")
        if _is_proved(job.made / path, job.entries[path]):
            continue
        if match is not None:
            todo.frames.append(int(match[1]))
        else:
            (todo.shards if path in shards else todo.tables).append(path)
    return todo


def _is_proved(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_file(path) == entry.sha256


def _link(job: _Job) -> None:
    """Show the store as far as it is sound."""
    shutil.rmtree(job.view / STORE, ignore_errors=True)
    for entry in job.manifest.files:
        if entry.path.startswith(f"{STORE}/"):
            source = job.made / entry.path if entry.path in job.broken else job.folder / entry.path
            if source.exists():
                link = job.view / entry.path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source)


def _keep(job: _Job, file: Path, path: str) -> None:
    """Take a file that was made again, if it is the one that was lost."""
    entry = job.entries[path]
    if not _is_proved(file, entry):
        found = f"{file.stat().st_size} bytes with SHA-256 {sha256_file(file)}" if file.is_file() else "no file"
        raise StoreError(
            f"{path}: found {found} when it was made again, expected the {entry.bytes} bytes with SHA-256 "
            f"{entry.sha256} of the manifest; nothing was changed (do other versions of the libraries write it?)"
        )
    kept = job.made / path
    kept.parent.mkdir(parents=True, exist_ok=True)
    file.replace(kept)


def _put(job: _Job, path: str) -> str:
    place = job.folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.parent.resolve().is_relative_to(job.folder.resolve()):
        raise StoreError(f"{path}: found a link that leads out of {job.folder}, expected folders")
    sync(job.made / path)
    (job.made / path).replace(place)
    sync(place.parent)
    return f"{path}: written again from the {'raw input' if path.startswith(f'{STORE}/') else 'store'}"


def _list_raw(job: _Job, raw: Sequence[Place]) -> RawInput:
    difference = recipe_difference(job.manifest)
    if difference is not None:
        raise StoreError(f"{difference}: a conversion would make another store now")
    found = list_raw(job.manifest.source, raw, job.progress)
    if found.inventory != job.manifest.inventory:
        raise RawInputError(
            f"raw input: found inventory {found.inventory}, expected {job.manifest.inventory}: "
            f"these are not the files that {job.folder.name} was converted from"
        )
    return found


def _make_store(job: _Job, todo: _Todo, raw: RawInput) -> None:
    again = None
    if todo.tables:
        again = reparse(job.work / work_name(raw.recordings), job.manifest, raw.recordings, job.progress)
        tables = rows_again(job.manifest.source, raw, again)
    else:
        tables = rows_of(open_store(job.view / STORE))
    create(job.scratch, tables.infos, tables.lengths, tables.segments, job.manifest.dtype, tables.quality)
    needed = recordings_in(todo.frames, tables, raw)
    if again is None:
        again = reparse(job.work / work_name(needed), job.manifest, needed, job.progress)
    shown = job.progress and bool(todo.frames)
    for number in Progress("store", len(todo.frames), "shard", shown=shown).over(todo.frames):
        write_frames(job.scratch, number * FRAMES_PER_SHARD, frames_again(number, tables, again))
    for path in todo.tables:
        _keep(job, job.scratch.parent / path, path)
    for number in todo.frames:
        file = frame_shard_file(job.scratch, number)
        _keep(job, file, file.relative_to(job.scratch.parent).as_posix())


def _make_shards(job: _Job, paths: Sequence[str]) -> None:
    """Make broken shards of the store, whose frames and tables are sound by now."""
    if not paths:
        return
    manifest, wanted = job.manifest, set(paths)
    plans = [plan for plan in _plans(job) if {plan.path, plan.index} & wanted]
    units = [
        ShardUnit(job.view, plan, manifest.source, manifest.recipe, manifest.fingerprint, manifest.dtype)
        for plan in plans
    ]
    with open_runner(None, count_cores()) as runner:
        for _ in Progress("pack", len(units), "shard", shown=job.progress).over(runner(units)):
            pass
    for path in paths:
        _keep(job, job.view / path, path)


def _plans(job: _Job) -> list[ShardPlan]:
    tables, recipe_ = rows_of(open_store(job.view / STORE)), recipe(job.manifest.recipe, job.manifest.source)
    clips = tables.lengths
    if tables.segments is not None:
        clips = [recipe_.clip_length(segment.end - segment.start) for segment in tables.segments]
    sizes = [step["samples_per_shard"] for step in job.manifest.recipe_steps if step.get("name") == "pack"]
    if len(sizes) != 1 or type(sizes[0]) is not int or sizes[0] < 1:
        raise StoreError(f"found samples_per_shard {sizes} in the recipe's steps, expected one: run preprocess again")
    return plan_packing(job.manifest.source, tables.infos, clips, tables.segments, sizes[0]).shards
