"""The right to a run's folder, and folders that appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from flows.run_folder import alone
from shards.errors import DiskError
from shards.files import whole_folder, write_atomic


def test_a_run_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    expected = rf"^{run}: found a place that cannot be written \(Not a directory\), expected a writable one for a run$"
    with pytest.raises(DiskError, match=expected), alone(run):
        pass


def test_a_lock_without_room_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, mode: str) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskError, match=rf"^{tmp_path}: found no space left \(Disk quota exceeded\)"), alone(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("passed", [0, 2])  # at a file in the folder, or once that file and what it lies in are synced
def test_a_folder_that_cannot_become_whole_is_named_as_the_user_did_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passed: int
) -> None:
    synced: list[Path] = []

    def refuse(path: Path) -> None:
        if len(synced) == passed:
            raise OSError(number, os.strerror(number))
        synced.append(path)

    def write() -> None:
        with whole_folder(tmp_path / "out") as folder:
            write_atomic(folder / "content", b"new")

    monkeypatch.setattr("shards.files.sync", refuse)
    with pytest.raises(DiskError) as caught:
        write()
    assert str(caught.value).startswith(f"{tmp_path / 'out'}: found ")
    assert f"({os.strerror(number)})" in str(caught.value)
    assert str(caught.value).endswith(" for what belongs in it")
    assert list(tmp_path.iterdir()) == []
