"""What `skelstream prune` removes, and what it never does."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.cli.main import main
from flows.evaluate import evaluate
from flows.options import EvaluateOptions
from flows.run_folder import alone
from flows.storage import prune
from flows.storage.prune import Removal, plan_pruning, remove
from flows.tasks.bench import scoring
from models.training.checkpoint import latest_checkpoint
from pipelines.conversion.workspace import locked
from shards.errors import StoreError
from tests.flows.storage.shelves import Shelf


def planned(shelf: Shelf, *folders: Path) -> list[Removal]:
    return list(plan_pruning(folders or (shelf.root,)).removals)


def paths(removals: list[Removal]) -> list[Path]:
    return [removal.path for removal in removals]


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def rest(path: Path, seconds: float) -> None:
    """Let all of it have been written so long ago."""
    then = time.time() - seconds
    for found in [*path.rglob("*"), path]:
        os.utime(found, (then, then))


def half_written(path: Path, *, folder: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir()
        (path / "part").write_bytes(b"half")
    else:
        path.write_bytes(b"half")
    return path


@contextmanager
def lock_of_features(folder: Path) -> Iterator[None]:
    """As the feature store holds it while it writes."""
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_shelf_in_use_has_nothing_to_remove(shelf: Shelf) -> None:
    before = files(shelf.root)
    assert plan_pruning([shelf.root]) == prune.Pruning((), ())
    assert files(shelf.root) == before


def test_a_store_that_no_run_uses_goes(shelf: Shelf, other_store: Path) -> None:
    old = shelf.data / other_store.name
    shutil.copytree(other_store, old)
    removals = planned(shelf)
    assert paths(removals) == [old]
    assert removals[0].bytes == sum(path.stat().st_size for path in files(old))
    assert removals[0].reason.startswith("no run, result, benchmark or YAML file below the given folders refers to it")
    assert remove(removals[0], [shelf.root])
    assert [path.name for path in shelf.data.iterdir()] == [shelf.store.name]


def test_without_a_run_in_sight_no_store_goes(shelf: Shelf) -> None:
    found = plan_pruning([shelf.data])
    assert found.removals == ()
    assert found.notes[0].startswith("stores stay: found no run and no benchmark below")


def test_under_a_run_that_cannot_be_read_no_store_goes(shelf: Shelf, other_store: Path) -> None:
    shutil.copytree(other_store, shelf.data / other_store.name)
    (shelf.run / "run.json").write_text("{}")
    found = plan_pruning([shelf.root])
    assert found.removals == ()
    assert "run.json" in found.notes[0]


def test_a_store_that_a_yaml_file_names_stays(shelf: Shelf, other_store: Path) -> None:
    shutil.copytree(other_store, shelf.data / other_store.name)
    (shelf.root / "weekly.yaml").write_text("data: data\n")
    assert planned(shelf) == []


def test_a_store_of_a_run_that_is_linked_here_stays(shelf: Shelf, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(shelf.run, elsewhere / "b")
    shutil.rmtree(shelf.run)
    assert paths(planned(shelf)) == [shelf.store]
    (shelf.root / "runs" / "a").symlink_to(elsewhere / "b")
    assert planned(shelf) == []


def test_a_store_comes_back_when_a_run_has_begun_to_use_it(shelf: Shelf) -> None:
    away = shelf.root.with_name("away")
    shelf.run.rename(away)
    (removal,) = planned(shelf)
    before = files(shelf.store)
    away.rename(shelf.run)
    assert not remove(removal, [shelf.root])
    assert files(shelf.store) == before
    assert sorted(path.name for path in shelf.data.iterdir()) == [shelf.store.name]


def test_a_store_that_is_being_written_stays(shelf: Shelf) -> None:
    shutil.rmtree(shelf.run)
    (removal,) = planned(shelf)
    with locked(shelf.store):
        assert not remove(removal, [shelf.root])
    assert shelf.store.is_dir()
    assert remove(removal, [shelf.root])


def test_a_conversion_cannot_begin_while_its_store_is_removed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(shelf.run)
    (removal,) = planned(shelf)
    tried: list[bool] = []

    def refused(folder: Path) -> None:
        assert not shelf.store.exists()
        with pytest.raises(StoreError, match="another process"), locked(shelf.store):
            pass
        tried.append(True)

    monkeypatch.setattr(shutil, "rmtree", refused)
    assert remove(removal, [shelf.root])
    assert tried == [True]


def test_features_of_a_checkpoint_that_is_gone_go(shelf: Shelf) -> None:
    latest = latest_checkpoint(shelf.run)
    assert latest is not None
    assert planned(shelf) == []
    latest.write_bytes(latest.read_bytes() + b"other")
    removals = planned(shelf)
    assert len(removals) == 2
    assert {removal.reason for removal in removals} == {"features of a checkpoint that is gone"}
    results = (shelf.run / "results" / "retrieval.json").read_bytes()
    assert all(remove(removal, [shelf.root]) for removal in removals)
    assert len([path for path in (shelf.run / "features").iterdir() if path.is_dir()]) == 2  # of the untrained encoder
    assert (shelf.run / "results" / "retrieval.json").read_bytes() == results


def test_features_stay_when_their_checkpoint_has_come_back(shelf: Shelf) -> None:
    latest = latest_checkpoint(shelf.run)
    assert latest is not None
    kept = latest.rename(shelf.root / "kept.pt")
    removals = planned(shelf)
    kept.rename(latest)
    assert len(removals) == 2
    assert not any(remove(removal, [shelf.root]) for removal in removals)


def test_what_is_removed_is_made_again(shelf: Shelf) -> None:
    latest = latest_checkpoint(shelf.run)
    assert latest is not None
    before = (shelf.run / "results" / "retrieval.json").read_bytes()
    kept = latest.rename(shelf.root / "kept.pt")
    for removal in planned(shelf):
        assert remove(removal, [shelf.root])
    kept.rename(latest)
    (shelf.run / "results" / "retrieval.json").unlink()
    options = EvaluateOptions(run=shelf.run, tasks=("retrieval",), data=str(shelf.store), device="cpu")
    assert [row.scores for row in evaluate(options)]
    assert len(before) > 0
    assert planned(shelf) == []


def test_half_written_files_go_unless_their_writer_is_at_work(shelf: Shelf) -> None:
    key = "0123456789abcdef"
    checkpoint = half_written(shelf.run / "checkpoints" / ".epoch_0009.pt.01234567.tmp")
    result = half_written(shelf.run / "results" / "epoch_0001" / ".linear.json.01234567.tmp")
    features = half_written(shelf.run / "features" / f".{key}.01234567.tmp", folder=True)
    removals = planned(shelf)
    assert set(paths(removals)) == {checkpoint, result, features}
    with alone(shelf.run), scoring(shelf.run / "results"), lock_of_features(shelf.run / "features" / key):
        # scoring cleans its folder itself
        half_written(result)
        removals = planned(shelf)
        assert not any(remove(removal, [shelf.root]) for removal in removals)
    assert all(path.exists() for path in (checkpoint, result, features))
    assert all(remove(removal, [shelf.root]) for removal in removals)
    assert not any(path.exists() for path in (checkpoint, result, features))
    assert (shelf.run / ".lock").exists()  # that of a run is never taken away: one who waits for it would hold nothing


def test_temporary_files_without_a_lock_go_when_they_have_rested(shelf: Shelf) -> None:
    page = half_written(shelf.root / ".report.html.01234567.tmp")
    export = half_written(shelf.run / ".export.89abcdef.tmp", folder=True)
    uploaded = half_written(shelf.data / ".ntu-pcm3-0123456789ab.uploaded", folder=True)
    assert planned(shelf) == []
    for path in (page, export, uploaded):
        rest(path, prune.MIN_REST_SECONDS + 60)
    removals = planned(shelf)
    assert set(paths(removals)) == {page, export, uploaded}
    (export / "part").write_bytes(b"more")  # somebody goes on with it
    gone = {removal.path: remove(removal, [shelf.root]) for removal in removals}
    assert gone == {page: True, export: False, uploaded: True}


def test_an_unfinished_conversion_goes_after_a_week_unless_somebody_works_on_it(shelf: Shelf) -> None:
    name = "ntu-pcm3-0123456789ab"
    work = half_written(shelf.data / f".{name}.partial", folder=True)
    rest(work, prune.ABANDONED_SECONDS - 60)
    assert planned(shelf) == []
    rest(work, prune.ABANDONED_SECONDS + 60)
    (removal,) = planned(shelf)
    assert removal.reason == "conversion that stopped 7 d ago; preprocess would go on with it"
    with locked(shelf.data / name):
        assert not remove(removal, [shelf.root])
    assert remove(removal, [shelf.root])
    assert not work.exists()
    assert sorted(path.name for path in shelf.data.iterdir()) == [shelf.store.name]


def test_links_are_never_followed(shelf: Shelf, tmp_path: Path) -> None:
    outside = half_written(tmp_path / "outside" / ".x.01234567.tmp", folder=True)
    rest(outside, 1e7)
    (shelf.root / "link").symlink_to(outside.parent)
    (shelf.root / ".y.01234567.tmp").symlink_to(outside)
    (shelf.run / "checkpoints" / ".epoch_0001.pt.01234567.tmp").symlink_to(outside / "part")
    assert planned(shelf) == []
    removal = Removal("leftover", shelf.root / ".y.01234567.tmp", 0, 0.0, "", shelf.root / ".y.lock", is_lasting=False)
    assert not remove(removal, [shelf.root])
    assert (outside / "part").exists()


def test_what_is_gone_already_counts_as_removed(shelf: Shelf) -> None:
    shutil.rmtree(shelf.run)
    (removal,) = planned(shelf)
    assert remove(removal, [shelf.root])
    assert remove(removal, [shelf.root])


def test_the_command_lists_asks_and_removes(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(shelf.run)
    assert main(["prune", str(shelf.root)]) == 1
    output = capsys.readouterr()
    assert str(shelf.store) in output.out
    assert "found no terminal to ask on, expected one, or --yes" in output.err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, stays in (("", True), ("n", True), ("y", False)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert main(["prune", str(shelf.root)]) == 0
        assert shelf.store.is_dir() == stays
    assert "removed 1, " in capsys.readouterr().out
    assert main(["prune", str(shelf.root)]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_yes_asks_nobody(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(shelf.run)
    assert main(["prune", "--yes", str(shelf.root)]) == 0
    assert not shelf.store.exists()
    assert main(["list", "--json", str(shelf.root)]) == 0
    assert '"kind": "benchmark"' in capsys.readouterr().out
