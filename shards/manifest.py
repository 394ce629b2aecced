"""Identity and completeness of a store folder: names, hashes, and the manifest that is written last.

A folder without `manifest.json` is unfinished; with it, everything the manifest lists is there.
"""

import hashlib
import json
import reprlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self, overload

from pydantic import AfterValidator, Field, ValidationError, model_validator

from shards.catalog import SOURCES
from shards.catalog import dataset as dataset_of
from shards.encoding import Storage
from shards.errors import StoreError
from shards.files import sha256_file, write_atomic
from shards.frozen import Frozen
from shards.places import Place
from shards.remote import failures
from shards.schema import FORMAT_VERSION

MANIFEST = "manifest.json"
STORE = "store.zarr"
SHARDS = "shards"


def _inside(path: str) -> str:
    """Refuse a path that is not plain, relative and inside the folder."""
    path.encode()  # half a surrogate pair names no file; its UnicodeEncodeError is a ValueError
    parts = PurePosixPath(path).parts
    if (
        not parts
        or "\\" in path
        or "\0" in path
        or path.startswith("/")
        or ".." in parts
        or str(PurePosixPath(path)) != path
    ):
        raise ValueError(f"{path!r} is not a plain relative path inside the folder")
    return path


InnerPath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Strict: numbers, not texts of them, and truths are no numbers.
Count = Annotated[int, Field(ge=0, strict=True)]
Metres = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class FileEntry(Frozen):
    """A file of the folder; `path` is relative to it, with forward slashes."""

    path: InnerPath
    bytes: Count
    sha256: Sha256


class ShardEntry(Frozen):
    """A tar shard and its index."""

    cell: str
    path: InnerPath
    index: InnerPath
    samples: Count
    frames: Count


class CellEntry(Frozen):
    """A cell: its side ("train" or "test") in each "dataset/protocol", and what it holds."""

    memberships: dict[str, str]
    samples: Count
    frames: Count


class Outcome(Frozen):
    """A sample that was dropped or repaired, and why."""

    key: str
    reason: str


COUNTS = ("sequences", "samples", "frames", "dropped", "repaired")
"""What a manifest counts, see `counts`."""


class Manifest(Frozen):
    """What a finished folder is and holds.

    Attributes:
        inventory: SHA-256 of the inventory of the raw files.
        counts: see `counts`.
        dtype: how the frames of store and shards are kept.
        cells: by name.
        shards: in the order of their paths.
        files: every file of the folder but the manifest, in the order of their paths.
        dropped, repaired: samples left out or mended, in the order of their keys.
    """

    format_version: int
    source: str
    recipe: str
    recipe_steps: list[dict[str, Any]]
    inventory: Sha256
    fingerprint: str
    counts: dict[str, Count]
    dtype: Storage
    max_error: Metres
    cells: dict[str, CellEntry]
    shards: list[ShardEntry]
    files: list[FileEntry]
    dropped: list[Outcome]
    repaired: list[Outcome]

    @model_validator(mode="after")
    def _lossless(self) -> Self:
        if self.dtype == "float32" and self.max_error:
            raise ValueError(f"found a max_error of {self.max_error:g} m, expected 0 for float32, which rounds nothing")
        return self

    def describe(self) -> str:
        """The counts, for people to read."""
        return ", ".join(f"{self.counts[name]:,} {name}" for name in COUNTS if name in self.counts)


def file_entry(folder: Path, path: Path) -> FileEntry:
    """Describe the file at `path`, which lies in `folder`."""
    return FileEntry(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_file(path))


def counts(*, sequences: int, samples: int, frames: int, dropped: int, repaired: int) -> dict[str, int]:
    """The `counts` of a manifest.

    Args:
        sequences: rows of the store (for an untrimmed source, videos).
        samples: samples in the shards (for an untrimmed source, its actions).
        frames: frames of the store.
        dropped: entries of `Manifest.dropped`.
        repaired: entries of `Manifest.repaired`.
    """
    return {"sequences": sequences, "samples": samples, "frames": frames, "dropped": dropped, "repaired": repaired}


def fingerprint(source: str, inventory: str, recipe_steps: Sequence[dict[str, Any]], dtype: str) -> str:
    """Name of a result by all that determines it: 12 hex digits.

    Args:
        source: name of the source.
        inventory: SHA-256 of the inventory of its raw files.
        recipe_steps: steps of the recipe with their parameters.
        dtype: storage of the frames.
    """
    identity = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "inventory": inventory,
        "recipe_steps": list(recipe_steps),
        "dtype": dtype,
    }
    return _digest(identity)[:12]


def _digest(fields: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `fields`."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def folder_name(source: str, recipe: str, fingerprint: str) -> str:
    """Name of a store's folder."""
    return f"{source}-{recipe}-{fingerprint}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; call it last, because its presence declares the folder finished."""
    write_atomic(folder / MANIFEST, encode_manifest(manifest))


def encode_manifest(manifest: Manifest) -> bytes:
    """The text of `manifest.json`; its member `sha256` is of the canonical JSON of all others."""
    fields = manifest.model_dump(mode="json")
    text = json.dumps(fields | {"sha256": _digest(fields)}, indent=1, sort_keys=True, allow_nan=False)
    return (text + "\n").encode("ascii")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key that is there twice")
    return fields


def read_manifest(folder: Place) -> Manifest:
    """Read the manifest of a finished folder.

    Raises:
        StoreError: absent, garbled, or of another format version.
    """
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise StoreError(f"{folder}: found no {MANIFEST}, expected a finished store (run preprocess again)") from None
    except failures(path, (ValueError, OSError, RecursionError)) as error:
        raise StoreError(f"{path}: found no readable JSON ({error}), expected a manifest") from None
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise StoreError(f"{path}: found format version {reprlib.repr(version)}, expected {FORMAT_VERSION}")
    stated = fields.pop("sha256", None)
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"{path}: found a bad field {where or 'at the top'} ({first['msg']}), expected a manifest"
        ) from None
    try:
        found = _digest(fields)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: found no readable JSON ({error}), expected a manifest") from None
    if stated != found:
        raise StoreError(
            f"{path}: found content with SHA-256 {found}, expected {reprlib.repr(stated)} as it states:"
            " it was damaged or edited"
        )
    return manifest


@overload
def find_store(data: Path, dataset: str, recipe: str | None = None) -> Path: ...
@overload
def find_store(data: Place, dataset: str, recipe: str | None = None) -> Place: ...
def find_store(data: Place, dataset: str, recipe: str | None = None) -> Place:
    """Find the one finished store that serves a data set.

    Args:
        data: a store's folder, or the folder that holds several.
        dataset: name of the data set.
        recipe: only stores of this recipe; None takes any.

    Raises:
        ConfigError: unknown data set.
        StoreError: none fits (says what is there), or several do (names them).
    """
    source = dataset_of(dataset).source
    candidates = _candidates(data, source)
    finished = {name: read_manifest(data / name) for name, has_manifest in candidates.items() if has_manifest}
    fitting = [name for name, m in finished.items() if m.source == source and recipe in (None, m.recipe)]
    if len(fitting) == 1:
        return data / fitting[0] if fitting[0] else data
    wanted = f"a finished store of source {source}" + (f" by recipe {recipe}" if recipe else "")
    if fitting:
        raise StoreError(
            f"{data}: found {len(fitting)} stores ({', '.join(fitting)}), expected one:"
            " point at the folder of the one you mean"
        )
    named = ((name or data.name) + ("" if name in finished else " (unfinished)") for name in candidates)
    there = ", ".join(named) or "nothing"
    raise StoreError(f"{data}: found {there}, expected {wanted} for data set {dataset}")


def find_stores(data: Place) -> list[Place]:
    """`data` itself when it is a store, else the stores in it; StoreError when there is none."""
    try:
        if (data / MANIFEST).is_file():
            return [data]
        prefixes = tuple(f"{name}-" for name in SOURCES)
        names = sorted(path.name for path in data.iterdir()) if data.is_dir() else []
        found = [data / name for name in names if name.startswith(prefixes)]
        folders = [folder for folder in found if folder.is_dir()]
    except failures(data) as error:
        raise StoreError(f"{data}: found no answer ({error}), expected a folder that holds stores") from error
    if not folders:
        raise StoreError(f"{data}: found no store, expected a folder with {MANIFEST} or a folder of such folders")
    return folders


def _candidates(data: Place, source: str) -> dict[str, bool]:
    """Names of the folders in `data`, and whether each has a manifest; the only one "" where `data` itself has one."""
    try:
        if not isinstance(data, Path):
            data.fs.invalidate_cache()  # somebody may have uploaded since it was last listed
        if (data / MANIFEST).exists():
            return {"": True}
        if data.is_dir():
            # a hidden folder is a conversion at work: complete or not, it has no name yet
            names = sorted(c.name for c in data.iterdir() if c.is_dir() and not c.name.startswith("."))
            return {name: (data / name / MANIFEST).exists() for name in names}
    except failures(data) as error:
        raise StoreError(f"{data}: found no answer ({error}), expected a folder that holds a store") from error
    raise StoreError(f"{data}: found no such folder, expected one that holds a store of {source}")
