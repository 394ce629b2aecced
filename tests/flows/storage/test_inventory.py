"""What `skelstream list` shows."""

import json
import shutil
from pathlib import Path

import pytest

from flows.exchange.export import export
from flows.storage.inventory import Inventory, age_text, as_json, listing, take_inventory
from flows.storage.items import Item
from models.training.checkpoint import latest_checkpoint
from shards.amounts import describe_bytes
from shards.errors import ConfigError
from tests.flows.storage.shelves import Shelf


def item(found: Inventory, kind: str) -> Item:
    """The only one of its kind."""
    (one,) = [item for item in found.items if item.kind == kind]
    return one


def test_everything_is_found_with_its_state(shelf: Shelf) -> None:
    export(shelf.run, None, shelf.run / "export")
    found = take_inventory([shelf.root])
    assert [(i.kind, i.state, i.path) for i in found.items] == [
        ("store", "complete", shelf.store),
        ("run", "complete", shelf.run),
        ("results", "complete", shelf.run / "results"),
        ("features", "complete", shelf.run / "features"),
        ("export", "complete", shelf.run / "export"),
        ("benchmark", "complete", shelf.benchmark),
    ]
    assert item(found, "store").about == "ntu, recipe pcm3, 48 samples"
    assert item(found, "run").about == "pcm3pp+tiny+no-post ntu60 xview joint seed 0, epoch 2 of 2"
    assert item(found, "results").about == "retrieval (3)"
    assert item(found, "features").about == "4 sets"
    assert item(found, "benchmark").about == "rounds once"


def test_who_uses_what(shelf: Shelf) -> None:
    found = take_inventory([shelf.root])
    assert item(found, "store").used_by == (str(shelf.run), str(shelf.run / "results"))
    assert item(found, "run").used_by == (str(shelf.benchmark),)


def test_sizes_are_those_of_the_files_and_nothing_counts_twice(shelf: Shelf) -> None:
    found = take_inventory([shelf.root, shelf.data, shelf.run])
    total = sum(path.stat().st_size for path in shelf.root.rglob("*") if path.is_file())
    assert sum(i.bytes for i in found.items) == total
    assert len(found.items) == 5


def test_the_age_is_that_of_the_last_written_file(shelf: Shelf) -> None:
    newest = max(path.stat().st_mtime for path in shelf.store.rglob("*") if path.is_file())
    assert item(take_inventory([shelf.data]), "store").changed == newest


def test_what_is_damaged_says_how(shelf: Shelf) -> None:
    tar = next(shelf.store.rglob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-512])
    (shelf.run / "results" / "retrieval.json").write_text("{")
    next(shelf.run.glob("features/*/values.npy")).write_bytes(b"")
    found = take_inventory([shelf.root])
    assert [i.state for i in found.items] == ["damaged", "complete", "damaged", "damaged", "complete"]
    assert tar.name in item(found, "store").about
    assert "retrieval.json: found no results" in item(found, "results").about
    assert "values.npy" in item(found, "features").about


def test_what_is_unfinished_says_how_far_it_is(shelf: Shelf) -> None:
    latest = latest_checkpoint(shelf.run)
    assert latest is not None
    config = json.loads((shelf.run / "config.json").read_text())
    config["train"]["epochs"] = 9
    (shelf.run / "config.json").write_text(json.dumps(config))
    (shelf.store / "manifest.json").rename(shelf.root / "away")
    (shelf.benchmark / "rounds" / "once.json").unlink()
    (shelf.data / ".ntu-pcm3-0123456789ab.partial").mkdir()
    found = take_inventory([shelf.root])
    assert [(i.kind, i.state) for i in found.items] == [
        ("store", "unfinished"),
        ("store", "unfinished"),
        ("run", "unfinished"),
        ("results", "complete"),
        ("features", "complete"),
        ("benchmark", "unfinished"),
    ]
    assert found.items[0].about == "a conversion: preprocess goes on with it"
    assert "no manifest.json" in found.items[1].about
    assert item(found, "run").about.endswith("epoch 2 of 9")
    shutil.rmtree(shelf.run / "checkpoints")
    assert item(take_inventory([shelf.root]), "run").about.endswith("no checkpoint yet")


def test_a_run_without_a_readable_record_is_damaged(shelf: Shelf) -> None:
    (shelf.run / "run.json").write_text("{}")
    found = take_inventory([shelf.root])
    assert item(found, "run").state == "damaged"
    assert "run.json" in found.unread[0]


def test_links_are_not_followed_but_name_what_they_point_at(shelf: Shelf, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(shelf.store, outside / shelf.store.name)
    (shelf.data / "linked").symlink_to(outside / shelf.store.name)
    (outside / "shortcut").symlink_to(shelf.store)
    assert [i.path for i in take_inventory([shelf.data]).items] == [shelf.store]
    found = take_inventory([shelf.data, outside])
    assert {i.path: i.used_by for i in found.items} == {
        shelf.store: (str(outside / "shortcut"),),
        outside / shelf.store.name: (str(shelf.data / "linked"),),
    }


def test_a_store_is_used_by_the_yaml_file_that_names_its_folder(shelf: Shelf) -> None:
    (shelf.root / "nightly.yaml").write_text(f"name: nightly  # comment\ndata: '{shelf.data}'\n")
    (shelf.root / "deploy.yml").write_text("parameters:\n  options: { data: data, method: pcm3pp }\n")
    (shelf.benchmark / "benchmark.yaml").write_text("name: nightly\ndata: data\n")
    users = item(take_inventory([shelf.root]), "store").used_by
    names = [shelf.root / "nightly.yaml", shelf.root / "deploy.yml", shelf.benchmark / "benchmark.yaml"]
    assert set(map(str, names)) <= set(users)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    assert listing(take_inventory([tmp_path])) == "found no store, run, result, export or benchmark"


def test_the_table_shows_sizes_ages_and_users(shelf: Shelf) -> None:
    found = take_inventory([shelf.root])
    store = item(found, "store")
    lines = listing(found, now=store.changed + 3 * 86400).splitlines()
    assert lines[0].split() == ["kind", "state", "size", "age", "where", "what;", "used", "by"]
    assert lines[1].split()[:2] == ["store", "complete"]
    assert f"{describe_bytes(store.bytes)}  3 d  {store.path}" in lines[1]
    assert lines[1].endswith(f"48 samples; used by {shelf.run}, {shelf.run / 'results'}")
    assert lines[-1].startswith("5 things, ")


def test_json_holds_the_same(shelf: Shelf) -> None:
    found = take_inventory([shelf.root])
    tree = json.loads(as_json(found))
    assert [(row["kind"], row["path"], row["bytes"]) for row in tree] == [
        (i.kind, str(i.path), i.bytes) for i in found.items
    ]
    assert tree[0]["changed"].endswith("+00:00")


@pytest.mark.parametrize("folder", ["s3://bucket/data", "absent"])
def test_what_is_no_folder_is_refused(folder: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        take_inventory([Path(folder)])


def test_ages_are_told_in_fitting_units() -> None:
    assert [age_text(s) for s in (0, 59, 60, 7199, 7200, 86400 * 9)] == ["now", "now", "1 min", "1 h", "2 h", "9 d"]
