"""Repair: what is broken is made again byte for byte, nothing else is touched, and nothing unproved takes a place."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.conversion.convert import convert
from pipelines.conversion.workspace import locked
from pipelines.repair import repair as repair_module
from pipelines.repair.repair import repair
from pipelines.repair.stores import repair_data
from pipelines.synthetic import synthesize
from shards.errors import ConfigError, RawInputError, StoreError
from shards.manifest import read_manifest
from shards.places import place
from shards.verify.store import check_files

# Repairs in forked children, each of which is killed at its n-th change of the file system, until one gets through.
KILLED_AGAIN_AND_AGAIN = """
import json, os, signal, sys
from pathlib import Path
import webdataset
from pipelines.repair.repair import repair

folder, raw, points = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "shutil.rmtree"}
left = None

def count(event, arguments):
    global left
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if left is not None and (event in CHANGES or writes):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
kills = 0
for point in points:
    child = os.fork()
    if child == 0:
        left = point
        repair(folder, [raw])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
print(kills, status)
"""

Copy = Callable[..., Path]
SOURCES = ("ntu", "pkummd1", "nwucla")


def nwucla_archive(root: Path) -> Path:
    """Recordings in the format of Northwestern-UCLA: JSON, 20 joints."""
    draw = random.Random(4)
    root.mkdir()
    for action, label in ((1, 1), (8, 7)):
        for view in (1, 2, 3):
            frames = [[[draw.uniform(-1, 1) for _ in range(3)] for _ in range(20)] for _ in range(7 + view)]
            name = f"a{action:02d}_s01_e00_v{view:02d}"
            (root / f"{name}.json").write_text(json.dumps({"file_name": name, "skeletons": frames, "label": label}))
    return root


@pytest.fixture(scope="module")
def raws(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("raw")
    made = {
        source: synthesize(source, root / source, subjects=4, classes=3, samples=samples, seed=5, zipped=True)
        for source, samples in (("ntu", 14), ("pkummd1", 4))
    }
    return made | {"nwucla": nwucla_archive(root / "nwucla")}


@pytest.fixture(scope="module")
def stores(raws: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stores")
    dtypes = {"ntu": "float32", "pkummd1": "fixed", "nwucla": "float16"}
    return {
        source: convert(source, [raw], root / source, dtype=dtypes[source], workers=1, samples_per_shard=4).folder
        for source, raw in raws.items()
    }


@pytest.fixture
def copy(stores: dict[str, Path], tmp_path: Path) -> Copy:
    """A fresh copy of a store to damage: copy(source)."""

    def make(source: str = "ntu", data: Path = tmp_path) -> Path:
        return shutil.copytree(stores[source], data / stores[source].name)

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def marks(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of each file."""
    stats = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in stats.items()}


def listed(folder: Path) -> list[str]:
    return [entry.path for entry in read_manifest(folder).files]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {"flipped": flip, "cut": cut, "missing": Path.unlink}


def one_of_each_kind(folder: Path) -> list[str]:
    """A tar, an index, a file of frames, a table, and the metadata of one."""
    files = listed(folder)
    kinds = (".tar", ".idx", "frames/c/0/0/0/0", "bodies/c/0", "zarr.json", "frames/zarr.json")
    return [next(path for path in files if path.endswith(kind)) for kind in kinds]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_one_broken_file_of_any_kind_becomes_what_it_was_and_no_other_is_touched(
    copy: Copy, raws: dict[str, Path], stores: dict[str, Path], source: str, damage: str
) -> None:
    folder = copy(source)
    for path in one_of_each_kind(folder):
        before = marks(folder)
        DAMAGES[damage](folder / path)
        origin = "raw input" if path.startswith("store.zarr/") else "store"
        assert repair(folder, [raws[source]]) == [f"{path}: written again from the {origin}"]
        after = marks(folder)
        assert {name for name in after if after[name] != before[name]} == {path}
    assert contents(folder) == contents(stores[source])
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("source", SOURCES)
def test_a_store_of_which_only_the_manifest_is_left_comes_back_whole(
    copy: Copy, raws: dict[str, Path], stores: dict[str, Path], source: str
) -> None:
    folder = copy(source)
    shutil.rmtree(folder / "store.zarr")
    shutil.rmtree(folder / "shards")
    assert len(repair(folder, [raws[source]])) == len(listed(folder))
    assert contents(folder) == contents(stores[source])


def test_two_files_that_were_swapped_go_back(copy: Copy, stores: dict[str, Path]) -> None:
    folder = copy()
    first, second = sorted(folder.rglob("*.tar"))[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    assert len(repair(folder)) == 2
    assert contents(folder) == contents(stores["ntu"])


def test_a_sound_store_is_left_alone(copy: Copy, raws: dict[str, Path]) -> None:
    folder = copy()
    before = marks(folder)
    assert repair(folder, [raws["ntu"]]) == []
    assert marks(folder) == before


def test_a_stray_file_is_reported_and_stays(copy: Copy) -> None:
    folder = copy()
    (folder / "notes.txt").write_text("mine")
    assert repair(folder) == ["notes.txt: found a file that the manifest does not list; it stays"]
    assert (folder / "notes.txt").read_text() == "mine"


def test_without_raw_input_all_files_that_need_it_are_named_and_nothing_is_changed(copy: Copy) -> None:
    folder = copy()
    broken = ["store.zarr/frames/c/0/0/0/0", "store.zarr/label/c/0", "store.zarr/zarr.json"]
    for path in [*broken, listed(folder)[0]]:
        flip(folder / path)
    before = marks(folder)
    with pytest.raises(StoreError, match="found 3 broken files that only the raw input can give back") as caught:
        repair(folder)
    assert all(path in str(caught.value) for path in broken)
    assert marks(folder) == before


def test_other_raw_input_is_refused(copy: Copy, raws: dict[str, Path], tmp_path: Path) -> None:
    folder = copy()
    flip(folder / "store.zarr/frames/c/0/0/0/0")
    other = synthesize("ntu", tmp_path / "other", subjects=4, classes=3, samples=14, seed=6, zipped=True)
    before = marks(folder)
    with pytest.raises(RawInputError, match="these are not the files that ntu-pcm3-"):
        repair(folder, [other])
    assert marks(folder) == before


def test_a_file_that_cannot_be_made_as_it_was_is_named_and_nothing_is_changed(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy()
    tars = sorted(folder.rglob("*.tar"))
    for tar in tars[:2]:
        flip(tar)
    before, make = marks(folder), repair_module.ShardUnit.__call__

    def make_another(self: repair_module.ShardUnit) -> None:
        make(self)
        if self.work / self.plan.path == folder.with_name(f".{folder.name}.repair") / "view" / tars[1].relative_to(
            folder
        ):
            flip(self.work / self.plan.path)

    monkeypatch.setattr(repair_module.ShardUnit, "__call__", make_another)
    with pytest.raises(StoreError, match=f"{tars[1].relative_to(folder)}: found .* nothing was changed"):
        repair(folder)
    assert marks(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_recipe_that_has_changed_since_is_refused(
    copy: Copy, raws: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy()
    flip(folder / "store.zarr/frames/c/0/0/0/0")
    monkeypatch.setattr(
        repair_module, "recipe_difference", lambda manifest: "manifest.json: recipe step 1: found 1, expected 2"
    )
    with pytest.raises(StoreError, match="recipe step 1"):
        repair(folder, [raws["ntu"]])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_manifest_proves_nothing(copy: Copy, raws: dict[str, Path], damage: str) -> None:
    folder = copy()
    DAMAGES[damage](folder / "manifest.json")
    with pytest.raises(StoreError, match="run preprocess again"):
        repair(folder, [raws["ntu"]])


def test_a_manifest_that_contradicts_itself_proves_nothing(copy: Copy) -> None:
    folder = copy()
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"recipe": "pcm3"', '"recipe": "raw"', 1))
    with pytest.raises(StoreError, match="manifest"):
        repair(folder)


def test_a_remote_store_is_refused() -> None:
    with pytest.raises(ConfigError, match="repair a copy"):
        repair(place("memory://bucket/ntu-pcm3-000000000000"))


def test_a_store_that_another_process_writes_is_refused(copy: Copy) -> None:
    folder = copy()
    with locked(folder), pytest.raises(StoreError, match="another process"):
        repair(folder)


@pytest.mark.parametrize("source", ["ntu", "pkummd1"])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    copy: Copy, raws: dict[str, Path], stores: dict[str, Path], source: str
) -> None:
    folder, draw = copy(source), random.Random(source)
    for path in one_of_each_kind(folder):
        draw.choice(list(DAMAGES.values()))(folder / path)
    points = [draw.randint(1, 20 + 9 * attempt) for attempt in range(30)] + [10**9]
    command = [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(folder), str(raws[source]), json.dumps(points)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills, status = map(int, done.stdout.split())
    assert status == 0
    assert kills >= 3
    assert contents(folder) == contents(stores[source])
    assert not folder.with_name(f".{folder.name}.repair").exists()


def test_what_an_interrupted_repair_has_proved_is_not_made_again(
    copy: Copy, raws: dict[str, Path], stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy()
    for path in one_of_each_kind(folder):
        flip(folder / path)

    def interrupt(job: object, path: str) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(repair_module, "_put", interrupt)
        with pytest.raises(KeyboardInterrupt):
            repair(folder, [raws["ntu"]])
    with monkeypatch.context() as patched:
        patched.setattr(repair_module, "_make_store", interrupt)
        patched.setattr(repair_module.ShardUnit, "__call__", interrupt)
        assert len(repair(folder, [raws["ntu"]])) == 6
    assert contents(folder) == contents(stores["ntu"])


def test_every_store_below_a_folder_is_repaired_and_those_that_cannot_be_are_named(copy: Copy, tmp_path: Path) -> None:
    good, bad = copy("ntu"), copy("nwucla")
    flip(next(good.rglob("*.tar")))
    flip(bad / "store.zarr" / "label" / "c" / "0")
    with pytest.raises(StoreError, match=f"{bad}: found 1 broken files") as caught:
        repair_data(tmp_path)
    assert f"done: {good.name}: shards/" in str(caught.value)
    assert check_files(good, read_manifest(good)).lines() == []
