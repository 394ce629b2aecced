"""The stages of a conversion, one after the other: parse, write (store and shards), and the manifest over all of it.

What a stage does is a list of units; who does them (this process, a cluster) is a `Runner`.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from pipelines.conversion.marks import Done, is_done, read_done, write_done
from pipelines.conversion.pack import Packing, ShardUnit, plan_packing
from pipelines.conversion.parts import FILES_PER_PART, Parsed, PartUnit, StoreUnit, read_part, store_units
from pipelines.conversion.recordings import Recording
from pipelines.conversion.runners import Runner, Unit
from pipelines.preprocessing.recipes import Recipe, Step, recipe
from shards import catalog
from shards.encoding import Storage
from shards.errors import RawInputError
from shards.files import write_atomic
from shards.manifest import SHARDS, STORE, FileEntry, Manifest, Outcome, counts, write_manifest
from shards.progress import Progress
from shards.schema import FORMAT_VERSION, Quality, SampleInfo, Segment
from shards.store import create


@dataclass(frozen=True)
class Plan:
    """All that determines a result, and how to get there.

    Attributes:
        source, recipe: names.
        steps: of the recipe and of the packing.
        dtype: of the shards.
        samples_per_shard: in a full shard.
        inventory: digest of the raw files.
        fingerprint: of the result.
        recordings: to convert, sorted by key.
        excused: recordings that the publishers say to leave out.
        strict: whether a fault stops the conversion; else the sample is dropped.
        work: folder to work in.
        progress: show bars.
    """

    source: str
    recipe: str
    steps: list[Step]
    dtype: Storage
    samples_per_shard: int
    inventory: str
    fingerprint: str
    recordings: list[Recording]
    excused: list[Outcome]
    strict: bool
    work: Path
    progress: bool


def run_stages(plan: Plan, runner: Runner, refuse_changed: Callable[[], None]) -> None:
    """Do everything from the raw files to the manifest, which is written last.

    Args:
        plan: what to make.
        runner: who does the units.
        refuse_changed: called when samples are to be dropped; raises if the raw files are others than at the start, for
            then a sample may be faulty that the inventory, which names the result, has as good.

    Raises:
        RawInputError: strict and a sample is faulty, or no sample is left.
        StoreError: the store cannot be read back.
    """
    table = _parse(plan, runner)
    if table.faults:
        refuse_changed()
    _start_over_unless(plan.work, table.digest())
    packing = plan_packing(plan.source, table.infos, table.clip_lengths, table.segments, plan.samples_per_shard)
    units = _write(plan, table, packing, runner)
    done = _finished(plan.work, ["store", *(unit.name for unit in units)])
    files = sorted((file for unit in done for file in unit.files), key=lambda file: file.path)
    _remove_strays(plan.work, files)
    write_manifest(plan.work, _manifest(plan, table, packing, files, max(unit.max_error for unit in done)))


def _run(units: Sequence[Unit], sizes: Sequence[int], runner: Runner, bar: Progress) -> None:
    """Do the units that are not done yet; the bar counts `sizes`."""
    todo: list[tuple[Unit, int]] = []
    with bar:
        for unit, size in zip(units, sizes, strict=True):
            if unit.is_done():
                bar.advance(size)
            else:
                todo.append((unit, size))
        for (_, size), _ in zip(todo, runner([unit for unit, _ in todo]), strict=True):
            bar.advance(size)


def _bar(plan: Plan, title: str, total: int, unit: str) -> Progress:
    return Progress(title, total, unit, shown=plan.progress, scaled=unit == "frame")


@dataclass(frozen=True)
class _Table:
    """What the parts hold together.

    Attributes:
        infos: of each row of the store.
        lengths: frames of each row.
        quality: of the raw recording of each row.
        segments: actions of an untrimmed source, else None.
        clip_lengths: frames of each sample of the shards.
        part_lengths: frames of each part.
        dropped: what is left out.
        repaired: what was changed.
        faults: those of `dropped` that something is wrong with.
    """

    infos: list[SampleInfo]
    lengths: list[int]
    quality: list[Quality]
    segments: list[Segment] | None
    clip_lengths: list[int]
    part_lengths: list[int]
    dropped: list[Outcome]
    repaired: list[Outcome]
    faults: list[Outcome]

    def add(self, parsed: Parsed, recipe_: Recipe) -> None:
        self.dropped.extend([*parsed.excused, *parsed.faults])
        self.faults.extend(parsed.faults)
        if parsed.info is None:
            return
        if self.segments is None:
            self.clip_lengths.append(parsed.frames)
        else:
            video = len(self.infos)
            self.segments.extend(Segment(video, a.row, a.start, a.end, a.label, a.confidence) for a in parsed.actions)
            self.clip_lengths.extend(recipe_.clip_length(a.end - a.start) for a in parsed.actions)
        assert parsed.quality is not None, "a recording that can be used was looked at"
        self.infos.append(parsed.info)
        self.lengths.append(parsed.frames)
        self.quality.append(parsed.quality)
        self.repaired.extend(parsed.repaired)

    def digest(self) -> str:
        tables = (self.infos, self.quality, self.segments or [])
        # vars, not dataclasses.astuple, which copies deeply: 4 against 90 microseconds a sample
        rows = [self.lengths, *([vars(row) for row in table] for table in tables)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _parse(plan: Plan, runner: Runner) -> _Table:
    """Raw files -> parts -> what is known of all samples."""
    starts = range(0, len(plan.recordings), FILES_PER_PART)
    batches = [tuple(plan.recordings[start : start + FILES_PER_PART]) for start in starts]
    units = [
        PartUnit(plan.work, number, plan.source, plan.recipe, batch, plan.strict)
        for number, batch in enumerate(batches)
    ]
    _run(units, [len(batch) for batch in batches], runner, _bar(plan, "parse", len(plan.recordings), "file"))
    return _gather(plan, len(units))


def _gather(plan: Plan, num_parts: int) -> _Table:
    untrimmed = catalog.source(plan.source).untrimmed
    table = _Table([], [], [], [] if untrimmed else None, [], [], list(plan.excused), [], [])
    recipe_ = recipe(plan.recipe, plan.source)
    for number in range(num_parts):
        part = read_part(plan.work, number)
        assert part is not None, f"part {number} was made"
        table.part_lengths.append(part.frames)
        for parsed in part.recordings:
            table.add(parsed, recipe_)
    if not table.clip_lengths:
        first = table.dropped[0].reason if table.dropped else "there is none"
        raise RawInputError(f"found no sample that can be used, expected at least one; the first: {first}")
    return table


def _start_over_unless(work: Path, digest: str) -> None:
    """Keep what was made of the parts only if it was made of these very samples.

    They can differ when a sample that was dropped, because its file could not be read, can be read now.
    """
    mark = work / "table.sha256"
    if not mark.exists() or mark.read_bytes() != digest.encode():
        for name in ("done", STORE, SHARDS):
            shutil.rmtree(work / name, ignore_errors=True)
        write_atomic(mark, digest.encode())


def _write(plan: Plan, table: _Table, packing: Packing, runner: Runner) -> list[ShardUnit | StoreUnit]:
    """Parts -> store and tar shards, neither of which waits for the other."""
    path = plan.work / STORE
    if not is_done(plan.work, "store"):
        shutil.rmtree(path, ignore_errors=True)
        create(path, table.infos, table.lengths, table.segments, plan.dtype, table.quality)
        write_done(plan.work, "store", [file for file in path.rglob("*") if file.is_file()])
    starts = tuple(accumulate(table.part_lengths, initial=0))
    shards = [
        ShardUnit(plan.work, shard, plan.source, plan.recipe, plan.fingerprint, plan.dtype, starts)
        for shard in packing.shards
    ]
    stores = store_units(plan.work, table.part_lengths)
    # the larger pieces of work first, so that no thread is left alone with one at the end
    units: list[ShardUnit | StoreUnit] = [*shards, *stores]
    sizes = [*(unit.plan.frames for unit in shards), *(unit.frames for unit in stores)]
    _run(units, sizes, runner, _bar(plan, "write", sum(sizes), "frame"))
    return units


def _finished(work: Path, units: Sequence[str]) -> list[Done]:
    done = [read_done(work, unit) for unit in units]
    assert all(done), "every unit has left its marker"
    return [unit for unit in done if unit]


def _remove_strays(work: Path, files: Sequence[FileEntry]) -> None:
    """Remove what a killed process left at temporary names."""
    wanted = {work / file.path for file in files}
    for root in (work / STORE, work / SHARDS):
        for path in root.rglob("*"):
            if path.is_file() and path not in wanted:
                path.unlink()


def _manifest(plan: Plan, table: _Table, packing: Packing, files: list[FileEntry], max_error: float) -> Manifest:
    dropped, repaired = (sorted(rows, key=lambda o: (o.key, o.reason)) for rows in (table.dropped, table.repaired))
    return Manifest(
        format_version=FORMAT_VERSION,
        source=plan.source,
        recipe=plan.recipe,
        recipe_steps=plan.steps,
        inventory=plan.inventory,
        fingerprint=plan.fingerprint,
        counts=counts(
            sequences=len(table.infos),
            samples=len(table.clip_lengths),
            frames=sum(table.lengths),
            dropped=len(dropped),
            repaired=len(repaired),
        ),
        dtype=plan.dtype,
        max_error=max_error,
        cells=packing.cells,
        shards=[shard.entry for shard in packing.shards],
        files=files,
        dropped=dropped,
        repaired=repaired,
    )
