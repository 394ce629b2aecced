"""A lock that whoever holds it takes away when leaving."""

import os
import threading
from pathlib import Path

import pytest

from shards.files import lock_file


def leave(path: Path, descriptor: int) -> None:
    path.unlink()
    os.close(descriptor)


def test_one_alone_holds_it_and_the_next_gets_it_afterwards(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    first = lock_file(path)
    assert first is not None
    assert lock_file(path) is None
    leave(path, first)
    second = lock_file(path)
    assert second is not None
    leave(path, second)
    assert list(tmp_path.iterdir()) == []


def test_who_waits_gets_a_lock_that_others_see_although_the_holder_took_the_file_away(tmp_path: Path) -> None:
    path, found = tmp_path / ".lock", []
    first = lock_file(path)
    assert first is not None
    waiting = threading.Thread(target=lambda: found.append(lock_file(path, wait=True)))
    waiting.start()
    leave(path, first)
    waiting.join()
    (second,) = found
    assert second is not None
    assert os.path.samestat(os.fstat(second), path.stat())
    assert lock_file(path) is None
    leave(path, second)


def test_no_link_is_followed_and_nothing_is_made_unasked(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="link"):
        lock_file(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        lock_file(tmp_path / "none", create=False)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
