"""Folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from shards.errors import ConfigError
from shards.manifest import name_refusals, sync


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`; it becomes `out` at the end, and vanishes where the block fails.

    When `out` holds the very same files already, it stays as it is.

    Raises:
        ConfigError: `out` holds anything else; it is not touched.
        DiskError: see `name_refusals`.
    """
    temporary = out.with_name(f".{out.name}.{token_hex(4)}.tmp")
    with name_refusals(out, temporary, "what belongs in it"):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if _files(out):
                _check_same(out, temporary)
                return
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            temporary.replace(out)  # an empty folder gives way
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(out.parent)


def _files(folder: Path) -> dict[str, Path]:
    """What is in the folder, by its path inside; nothing where there is no folder."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: found a file, expected a folder, or nothing")
    return {os.fspath(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}


def _check_same(out: Path, made: Path) -> None:
    found, expected = _files(out), _files(made)
    other = sorted(
        name
        for name in found.keys() | expected.keys()
        if name not in found or name not in expected or _content(found[name]) != _content(expected[name])
    )
    if other:
        raise ConfigError(
            f"{out}: found other content ({', '.join(other)}), expected an empty folder or none; "
            "remove it or choose another"
        )


def _content(path: Path) -> bytes | None:
    return None if path.is_dir() else path.read_bytes()
