import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.evaluation import feature_store
from models.evaluation.feature_store import feature_key, read_features, stored_features, verify_features
from models.evaluation.features import Features
from shards.errors import StoreError
from tests.patience import PATIENCE

ABOUT = {"checkpoint": "0" * 64, "dataset": "ntu60", "side": "train", "view": {"crop": "centre", "frames": [64]}}
NAMES = ["about.json", "label.npy", "sample_id.npy", "values.npy"]


def features(samples: int = 7, width: int = 5, seed: int = 0) -> Features:
    values = torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))
    return Features(values, torch.arange(samples) % 3, 100 + torch.arange(samples))


def never() -> Features:
    raise AssertionError("extracted again")


def assert_equal(found: Features, expected: Features) -> None:
    for name in ("values", "label", "sample_id"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete folder."""
    stored_features(tmp_path, ABOUT, features)
    return tmp_path / feature_key(ABOUT)


def test_features_are_extracted_once_and_read_as_they_were(tmp_path: Path) -> None:
    assert_equal(stored_features(tmp_path / "new" / "root", ABOUT, features), features())
    assert_equal(stored_features(tmp_path / "new" / "root", ABOUT, never), features())
    assert_equal(read_features(tmp_path / "new" / "root" / feature_key(ABOUT)), features())


def test_the_files_are_plain_arrays_beside_what_they_depend_on(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    for name in ("values", "label", "sample_id"):
        array = np.load(folder / f"{name}.npy", allow_pickle=False)
        np.testing.assert_array_equal(array, getattr(features(), name).numpy())
        assert array.dtype == getattr(features(), name).numpy().dtype
    record = json.loads((folder / "about.json").read_text())
    assert record["about"] == ABOUT
    for name, entry in record["files"].items():
        content = (folder / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_key_is_the_hash_of_the_canonical_json() -> None:
    about = {"b": [1, 2.5], "a": "\u00e9"}
    text = '{"about":{"a":"\\u00e9","b":[1,2.5]},"version":1}'
    assert feature_key(about) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert feature_key({"a": "\u00e9", "b": (1, 2.5)}) == feature_key(about)
    assert feature_key(about | {"c": None}) != feature_key(about)


def test_features_that_depend_on_something_else_lie_elsewhere(tmp_path: Path) -> None:
    stored_features(tmp_path, ABOUT, features)
    assert_equal(stored_features(tmp_path, ABOUT | {"side": "test"}, lambda: features(4)), features(4))
    assert_equal(stored_features(tmp_path, ABOUT, never), features())


def test_equal_features_give_equal_bytes(tmp_path: Path) -> None:
    # in another memory order, and from a view
    whole = features()
    turned = Features(whole.values.T.contiguous().T, torch.stack((whole.label,) * 2, 1)[:, 0], whole.sample_id)
    contents = []
    for number, make in enumerate((features, lambda: turned)):
        stored_features(tmp_path / str(number), dict(reversed(ABOUT.items())) if number else ABOUT, make)
        folder = tmp_path / str(number) / feature_key(ABOUT)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


def test_changing_features_in_memory_changes_no_file(folder: Path) -> None:
    found = read_features(folder, ABOUT)
    found.values.zero_()
    assert_equal(read_features(folder, ABOUT), features())
    verify_features(folder)


def test_a_collision_of_keys_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "feature_key", lambda about: folder.name)
    with pytest.raises(StoreError, match=r"about\.json: found features of something else, .*: delete the folder"):
        stored_features(folder.parent, ABOUT | {"side": "test"}, never)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), OSError("the data is gone")])
def test_an_interrupted_extraction_leaves_nothing_and_is_made_again(tmp_path: Path, error: BaseException) -> None:
    def fail() -> Features:
        raise error

    with pytest.raises(type(error)) as caught:
        stored_features(tmp_path, ABOUT, fail)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []
    assert_equal(stored_features(tmp_path, ABOUT, features), features())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("at", range(1, 6))
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, at: int
) -> None:
    calls, fsync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=rf"{feature_key(ABOUT)}: found no space left \({os.strerror(number)}\)"):
        stored_features(tmp_path, ABOUT, features)
    assert list(tmp_path.iterdir()) == []
    assert_equal(stored_features(tmp_path, ABOUT, features), features())


# one process that forks, because importing torch takes longer than all else
PROGRAM = """
import json, os, resource, signal, sys
from pathlib import Path
import torch
from models.evaluation import feature_store
from models.evaluation.features import Features
from shards.errors import StoreError

features = Features(torch.zeros(5000, 8), torch.zeros(5000).long(), torch.arange(5000))
sync, calls = feature_store.sync, 0

def run(root, at):
    def die(path):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(path)

    feature_store.sync = die
    if not at:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        feature_store.stored_features(root, {"side": "train"}, lambda: features)
    except StoreError as error:
        assert "found no space left (File too large)" in str(error), error
        os._exit(3)

ends = []
for at in (0, 2, 5):
    child = os.fork()
    if child == 0:
        run(Path(sys.argv[1]) / str(at), at)
        os._exit(0)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Roots where a file could not grow ("0") and where the writer was killed as it wrote the second ("2") or all."""
    root = tmp_path_factory.mktemp("struck")
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(root)],
        cwd=Path(__file__).resolve().parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(process.stdout) == [3, -9, -9]
    return root


def test_a_file_that_cannot_grow_is_told_as_a_full_disk_and_leaves_nothing(struck: Path) -> None:
    assert list((struck / "0").iterdir()) == []


@pytest.mark.parametrize("at", ["2", "5"])
def test_what_a_killed_process_leaves_does_not_count_and_is_removed(struck: Path, at: str) -> None:
    root = struck / at
    (left,) = (path.name for path in root.iterdir() if path.is_dir())
    assert left.startswith(".")
    assert left.endswith(".tmp")
    # also by one who wants other features
    assert_equal(stored_features(root, ABOUT, features), features())
    assert [path.name for path in root.iterdir() if path.is_dir()] == [feature_key(ABOUT)]
    again = {"side": "train"}
    assert_equal(stored_features(root, again, features), features())
    assert {path.name for path in root.iterdir()} == {feature_key(ABOUT), feature_key(again)}


def test_what_is_not_ours_is_never_removed(tmp_path: Path) -> None:
    names = [".notes.tmp", ".0123456789abcdef.tmp", "0123456789abcdef"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("mine")
    stored_features(tmp_path, ABOUT, features)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, feature_key(ABOUT)])


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    found: list[Any] = [None] * len(calls)

    def work(number: int) -> None:
        found[number] = calls[number]()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    return found


def test_of_two_that_want_the_same_one_extracts_and_the_other_takes_it(tmp_path: Path) -> None:
    made = []
    busy = threading.Event()

    def slow(seed: int) -> Features:
        made.append(seed)
        busy.wait(0.3)
        return features(seed=seed)

    found = in_threads(*(partial(stored_features, tmp_path, ABOUT, partial(slow, seed)) for seed in (1, 2)))
    assert len(made) == 1
    for one in found:
        assert_equal(one, features(seed=made[0]))
    assert [path.name for path in tmp_path.iterdir()] == [feature_key(ABOUT)]


def test_one_who_writes_other_features_is_not_disturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ABOUT | {"side": "test"}
    written, done = threading.Event(), threading.Event()
    write = feature_store._write_array

    def pause(path: Path, array: Any) -> Any:
        entry = write(path, array)
        if feature_key(ABOUT) in str(path) and path.name == "values.npy":
            written.set()
            assert done.wait(PATIENCE)
        return entry

    def second() -> Features:
        assert written.wait(PATIENCE)
        try:
            return stored_features(tmp_path, other, lambda: features(3))
        finally:
            done.set()

    monkeypatch.setattr(feature_store, "_write_array", pause)
    first, found = in_threads(lambda: stored_features(tmp_path, ABOUT, features), second)
    assert_equal(first, features())
    assert_equal(found, features(3))


def test_features_that_another_machine_wrote_meanwhile_stay(tmp_path: Path, folder: Path) -> None:
    # as on a file system where a lock holds on one machine alone
    root = tmp_path / "root"

    def late() -> Features:
        shutil.copytree(folder, root / folder.name)
        return features(seed=1)

    assert_equal(stored_features(root, ABOUT, late), features())
    assert [path.name for path in root.iterdir()] == [folder.name]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


def garble(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def retype(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"'<f4'", b"'<i4'").replace(b"'<i8'", b"'<u8'"))
    assert path.read_bytes() != content


@pytest.mark.parametrize("name", ["values.npy", "label.npy", "sample_id.npy"])
@pytest.mark.parametrize("damage", [cut, lengthen, garble, retype, Path.unlink])
def test_a_damaged_file_is_told_by_name_and_with_what_to_do(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(folder / name)
    with pytest.raises(StoreError, match=rf"{name}: found .*, expected .*: delete the folder .*{folder.name}, "):
        stored_features(folder.parent, ABOUT, never)
    shutil.rmtree(folder)
    assert_equal(stored_features(folder.parent, ABOUT, features), features())


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads((folder / "about.json").read_text())
    change(record)
    (folder / "about.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(version=2),
        lambda record: record.pop("about"),
        lambda record: record.update(extra=1),
        lambda record: record["files"].pop("label.npy"),
        lambda record: record["files"]["label.npy"].update(bytes=-1),
        lambda record: record["files"]["label.npy"].update(shape=[1, 7]),
        lambda record: record["about"].update(side="test"),
    ],
)
def test_a_record_that_does_not_fit_is_told(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    rewrite(folder, change)
    with pytest.raises(StoreError, match=r"found .*, expected .*: delete the folder"):
        stored_features(folder.parent, ABOUT, never)


@pytest.mark.parametrize("text", ["", "[]", "{", "7", "[" * 100_000])
def test_a_record_that_is_no_record_is_told(folder: Path, text: str) -> None:
    (folder / "about.json").write_text(text)
    with pytest.raises(StoreError, match=r"about\.json: found .*: delete the folder"):
        stored_features(folder.parent, ABOUT, never)


def test_arrays_of_unequal_length_are_told(tmp_path: Path) -> None:
    whole = features()
    with pytest.raises(StoreError, match=r"found arrays of shapes \(7, 5\), \(6,\), \(7,\), expected \(N, D\)"):
        stored_features(tmp_path, ABOUT, lambda: Features(whole.values, whole.label[1:], whole.sample_id))


def test_a_folder_without_a_record_does_not_count_and_an_empty_one_gives_way(folder: Path) -> None:
    (folder / "about.json").unlink()
    with pytest.raises(StoreError, match=r"about\.json: found no readable JSON \(FileNotFoundError\)"):
        stored_features(folder.parent, ABOUT, never)
    for path in list(folder.iterdir()):
        path.unlink()
    assert_equal(stored_features(folder.parent, ABOUT, features), features())


@pytest.mark.parametrize("name", ["values.npy", "label.npy", "sample_id.npy"])
def test_a_flipped_bit_is_found_by_verification_alone(folder: Path, name: str) -> None:
    verify_features(folder)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    read_features(folder, ABOUT)
    with pytest.raises(StoreError, match=rf"{name}: found content with SHA-256 .*: delete the folder"):
        verify_features(folder)


def test_an_array_of_objects_is_not_unpickled(folder: Path) -> None:
    array = np.array([print] * 7, dtype=object)
    np.save(folder / "label.npy", array, allow_pickle=True)
    size = (folder / "label.npy").stat().st_size
    rewrite(folder, lambda record: record["files"]["label.npy"].update(bytes=size))
    with pytest.raises(StoreError, match=r"label\.npy: found no readable array"):
        read_features(folder)


def test_a_root_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"found a place that cannot be written \(Not a directory\)"):
        stored_features(tmp_path / "file" / "root", ABOUT, never)
