"""Verification: a good folder has no problem, and each damage is found and named."""

import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from upath import UPath

from shards.manifest import FileEntry, file_entry, fingerprint, folder_name, read_manifest, write_manifest
from shards.places import place
from shards.reader import read_shard
from shards.store import frame_shard_file
from shards.verify.store import check_files, verify
from shards.writer import write_shard

Make = Callable[..., Path]
Sample = tuple[str, npt.NDArray[Any], dict[str, Any]]


@pytest.fixture
def folder(make_folder: Make) -> Path:
    return make_folder()


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def change_manifest(folder: Path, **changes: Any) -> None:
    """Replace top-level fields by JSON values."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_text()) | changes
    del fields["sha256"]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["sha256"] = hashlib.sha256(canonical.encode("ascii")).hexdigest()
    path.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")


def rehash(folder: Path) -> None:
    """Make the manifest list the files as they are, so that only what they say is wrong."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": [file_entry(folder, f) for f in files]}))


def rewrite(path: Path, change: Callable[[list[Sample]], list[Sample]]) -> None:
    """Change the samples of a shard as a faulty writer would: with a fitting index and hash."""
    write_shard(path, change(list(read_shard(path))))
    rehash(path.parents[2])


def shard(folder: Path) -> Path:
    return folder / read_manifest(folder).shards[0].path


def set_column(folder: Path, name: str, row: int, value: int) -> None:
    array = zarr.open_array(folder / "store.zarr" / name, mode="r+")
    array[row] = value
    rehash(folder)


@pytest.mark.parametrize("source", ["ntu", "pkummd1"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_good_folder_has_no_problem(make_folder: Make, source: str, dtype: str) -> None:
    assert verify(make_folder(source=source, dtype=dtype)) == []


def test_progress_is_shown_on_request_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(folder)
    assert capsys.readouterr().err == ""
    verify(folder, progress=True)
    assert "shards" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float16", "fixed"])
def test_a_flipped_bit_anywhere_in_any_file_is_found_and_the_file_named(make_folder: Make, dtype: str) -> None:
    folder, draw = make_folder(dtype=dtype), random.Random(dtype)
    manifest = read_manifest(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    assert {path.suffix for path in paths} == {"", ".json", ".tar", ".idx"}
    for _ in range(20):
        before = {path: path.read_bytes() for path in paths}
        for path, data in before.items():
            flip_bit(path, draw.randrange(len(data)), draw.randrange(8))
        names = [path.relative_to(folder).as_posix() for path in paths]
        assert list(check_files(folder, manifest).broken) == names
        for path, data in before.items():
            path.write_bytes(data)
    assert verify(folder) == []


@pytest.mark.parametrize("kind", ["tar", "idx", "frames/c/0/0/0/0", "label/c/0", "offsets/zarr.json"])
def test_verify_names_the_one_file_with_a_flipped_bit(folder: Path, kind: str) -> None:
    draw = random.Random(kind)
    path = next(path for path in sorted(folder.rglob("*")) if path.as_posix().endswith(kind))
    before = path.read_bytes()
    for _ in range(4):
        flip_bit(path, draw.randrange(len(before)), draw.randrange(8))
        name = path.relative_to(folder).as_posix()
        assert any(line.startswith(f"{name}: found other content") for line in verify(folder))
        path.write_bytes(before)
    assert verify(folder) == []


def test_any_flipped_bit_of_the_manifest_is_found(folder: Path) -> None:
    path = folder / "manifest.json"
    before, draw = path.read_bytes(), random.Random(1)
    for position in [0, len(before) - 1, *draw.sample(range(len(before)), 60)]:
        flip_bit(path, position, draw.randrange(8))
        assert any("manifest.json" in line for line in verify(folder)), f"byte {position}"
        path.write_bytes(before)


def repack(path: Path, change: Callable[[list[tarfile.TarInfo]], None], end: bytes = b"") -> None:
    """Write a tar with other headers: what a reader delivers stays the same, and so do index offsets and hashes."""
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        datas = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]  # all are files
    change(members)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in zip(members, datas, strict=True):
            tar.addfile(member, io.BytesIO(data))
    path.write_bytes(path.read_bytes() + end)
    rehash(path.parents[2])


def set_first(name: str, value: Any) -> Callable[[list[tarfile.TarInfo]], None]:
    return lambda members: setattr(members[0], name, value)


@pytest.mark.parametrize(
    ("name", "value"), [("mtime", 1), ("mode", 0o755), ("uid", 7), ("uname", "me"), ("type", tarfile.AREGTYPE)]
)
def test_a_header_that_is_not_canonical_is_named(folder: Path, name: str, value: Any) -> None:
    path = shard(folder)
    repack(path, set_first(name, value))
    wrong = f"{path.relative_to(folder)}: found a header at byte 0 that is not canonical"
    assert any(line.startswith(wrong) for line in verify(folder))


def test_members_in_another_order_are_named(folder: Path) -> None:
    path = shard(folder)
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]  # files
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in [members[1], members[0], *members[2:]]:
            tar.addfile(member, io.BytesIO(data))
    rehash(folder)
    assert any("of one sample" in line for line in verify(folder))


@pytest.mark.parametrize("end", [b"junk" * 128, bytes(10240), b"x"])
def test_anything_behind_the_last_member_is_named(folder: Path, end: bytes) -> None:
    path = shard(folder)
    size = path.stat().st_size
    repack(path, lambda members: None, end)
    wrong = f"{path.relative_to(folder)}: found {size + len(end)} bytes with the last member's end at "
    assert any(line.startswith(wrong) for line in verify(folder))


@pytest.mark.parametrize("where", ["padding", "end"])
def test_data_between_the_members_and_in_the_end_blocks_is_named(folder: Path, where: str) -> None:
    path = shard(folder)
    with tarfile.open(path) as tar:
        member = tar.getmembers()[1]
    position = member.offset_data + member.size + 3 if where == "padding" else path.stat().st_size - 700
    flip_bit(path, position, 2)
    rehash(folder)
    assert any(line.startswith(f"{path.relative_to(folder)}: found data behind ") for line in verify(folder))


def test_a_folder_on_a_remote_place_is_verified_too(folder: Path) -> None:
    remote = place(f"memory://verify/{folder.name}")
    assert isinstance(remote, UPath)
    remote.fs.put(str(folder), remote.path, recursive=True)
    assert verify(remote) == []
    remote.fs.pipe_file(f"{remote.path}/stray", b"x")
    with remote.fs.open(f"{remote.path}/{read_manifest(folder).shards[0].index}", "ab") as file:
        file.write(b"x")
    problems = verify(remote)
    assert problems[0] == "stray: found a file that the manifest does not list"
    assert any(line.startswith(f"{read_manifest(folder).shards[0].index}: found ") for line in problems)


def test_a_pipe_in_place_of_a_file_is_named_and_does_not_hang(folder: Path) -> None:
    path = shard(folder).with_suffix(".idx")
    path.unlink()
    os.mkfifo(path)
    assert check_files(folder, read_manifest(folder)).broken == {
        path.relative_to(folder).as_posix(): "found something that is no file, expected a file"
    }


@pytest.mark.parametrize(
    ("dtype", "error"), [("float16", 0.5), ("fixed", 1e-4), ("fixed", 6e-5), ("float16", float(1 << 20))]
)
def test_an_error_that_the_storage_cannot_have_made_is_named(make_folder: Make, dtype: str, error: float) -> None:
    folder = make_folder(dtype=dtype)
    change_manifest(folder, max_error=error)
    [problem] = verify(folder)
    assert problem.startswith(f"manifest.json: found max_error {error:g}, expected 0 to ")


def test_an_unfinished_folder_is_named(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert len(verify(folder)) == 1
    assert "found no manifest.json" in verify(folder)[0]


@pytest.mark.parametrize("part", ["label/c/0", "frames/zarr.json", "shards"])
def test_a_missing_file_is_named(folder: Path, part: str) -> None:
    path = shard(folder) if part == "shards" else folder / "store.zarr" / part
    path.unlink()
    assert f"{path.relative_to(folder)}: found no file, expected one that the manifest lists" in verify(folder)


@pytest.mark.parametrize("name", ["stray.txt", "shards/.000000.tar.1.tmp", "store.zarr/frames/c/9"])
def test_a_stray_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    assert verify(folder) == [f"{name}: found a file that the manifest does not list"]


def test_a_grown_file_is_named_with_both_sizes(folder: Path) -> None:
    path = shard(folder).with_suffix(".idx")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\n")
    assert f"{path.relative_to(folder)}: found {size + 1} bytes, expected {size}" in verify(folder)


def test_a_folder_of_another_name_is_named(folder: Path) -> None:
    moved = folder.rename(folder.with_name("mine"))
    assert verify(moved) == [f"{moved}: found a folder of this name, expected {folder.name}"]


@pytest.mark.parametrize("change", [{"fingerprint": "0" * 12}, {"recipe_steps": []}, {"inventory": "1" * 64}])
def test_an_identity_that_does_not_hash_to_the_fingerprint_is_named(folder: Path, change: dict[str, Any]) -> None:
    change_manifest(folder, **change)
    assert any("manifest.json: found fingerprint" in line for line in verify(folder))


def test_a_store_of_an_unknown_source_is_named(folder: Path) -> None:
    change_manifest(folder, source="kinetics")
    assert any(
        line.startswith("manifest.json: unknown source 'kinetics', expected one of ntu") for line in verify(folder)
    )


@pytest.mark.parametrize("count", ["samples", "sequences", "frames", "dropped", "repaired"])
def test_a_wrong_count_is_named(folder: Path, count: str) -> None:
    counts = read_manifest(folder).counts
    change_manifest(folder, counts=counts | {count: counts[count] + 1})
    assert verify(folder) == [f"manifest.json: found {counts[count] + 1} {count}, expected {counts[count]}"]


def test_a_count_that_nothing_defines_is_named(folder: Path) -> None:
    change_manifest(folder, counts=read_manifest(folder).counts | {"videos": 3})
    assert verify(folder) == ["manifest.json: found 3 videos, expected None"]


def test_wrong_counts_of_a_shard_are_named(folder: Path) -> None:
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    shards[0]["samples"] += 1
    change_manifest(folder, shards=shards)
    assert len(verify(folder)) == 1
    assert verify(folder)[0].startswith(f"{shards[0]['path']}: found ")


@pytest.mark.parametrize("change", [{"samples": 9}, {"frames": 1}, {"memberships": {"ntu60/xsub": "test"}}])
def test_a_wrong_cell_is_named(folder: Path, change: dict[str, Any]) -> None:
    cells = json.loads((folder / "manifest.json").read_text())["cells"]
    name = next(iter(cells))
    cells[name] |= change
    change_manifest(folder, cells=cells)
    assert any(f"cell {name}" in line for line in verify(folder))


def test_a_shard_that_the_manifest_leaves_out_leaves_its_samples_homeless(folder: Path) -> None:
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    keys = [key for key, _, _ in read_shard(folder / shards[-1]["path"])]
    change_manifest(folder, shards=shards[:-1])
    problems = verify(folder)
    assert f"shards/{shards[-1]['cell']}: found no {', '.join(keys)}, expected in this cell" in problems
    assert any(line.startswith("ntu120/xset: ") and "neither in train nor in test" in line for line in problems)


def test_a_shard_in_two_cells_stands_on_both_sides(folder: Path) -> None:
    entries = json.loads((folder / "manifest.json").read_text())["shards"]
    first = next(e for e in entries if e["cell"] == "ntu60-xsub-train_xview-test_xset-test")
    other = "ntu60-xsub-test_xview-test_xset-test"
    path = f"shards/{other}/{sum(e['cell'] == other for e in entries):06d}"
    (folder / f"{path}.tar").write_bytes((folder / first["path"]).read_bytes())
    (folder / f"{path}.idx").write_bytes((folder / first["index"]).read_bytes())
    change_manifest(folder, shards=[*entries, first | {"cell": other, "path": f"{path}.tar", "index": f"{path}.idx"}])
    rehash(folder)
    problems = verify(folder)
    assert any(line.startswith(f"shards/{other}: found ") and "expected in another cell" in line for line in problems)
    both = [line.split(":")[0] for line in problems if "in train and test, expected on one side" in line]
    assert both == ["ntu60/xsub", "ntu120/xsub"]


def test_two_samples_out_of_order_are_named(folder: Path) -> None:
    path = shard(folder)
    keys = [key for key, _, _ in read_shard(path)]
    rewrite(path, lambda samples: samples[::-1])
    assert len(verify(folder)) == 1
    assert verify(folder)[0].startswith(f"{path.relative_to(folder)}: {keys[0]}: found sample")


def test_two_samples_that_carry_each_others_frames_are_named(folder: Path) -> None:
    path = shard(folder)

    def swap(samples: list[Sample]) -> list[Sample]:
        (a, frames_a, record_a), (b, frames_b, record_b) = samples
        return [(a, frames_b, record_a), (b, frames_a, record_b)]

    keys = [key for key, _, _ in read_shard(path)]
    rewrite(path, swap)
    name = path.relative_to(folder)
    wrong = [f"{name}: {key}: found other frames, expected those of the store" for key in keys]
    assert set(wrong) <= set(verify(folder))


@pytest.mark.parametrize(
    "field", ["label", "index", "subject", "camera", "setup", "replication", "bodies", "frames", "key", "recipe"]
)
def test_a_wrong_field_of_a_record_is_named(folder: Path, field: str) -> None:
    path = shard(folder)
    key, _, record = next(iter(read_shard(path)))
    rewrite(path, lambda samples: [(k, f, r | {field: 99} if k == key else r) for k, f, r in samples])
    name = path.relative_to(folder)
    assert verify(folder) == [f"{name}: {key}: found {field} 99, expected {record[field]!r}"]


@pytest.mark.parametrize("change", [{"extra": None}, {"label": ...}])
def test_a_field_too_many_or_too_few_is_named(folder: Path, change: dict[str, Any]) -> None:
    path = shard(folder)

    def changed(record: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in (record | change).items() if value is not ...}

    rewrite(path, lambda samples: [(k, f, changed(r)) for k, f, r in samples])
    assert len(verify(folder)) == 2
    assert all(f"found {next(iter(change))} None" in line for line in verify(folder))


def test_one_wrong_coordinate_is_named(folder: Path) -> None:
    path = shard(folder)
    key = next(iter(read_shard(path)))[0]

    def nudge(samples: list[Sample]) -> list[Sample]:
        samples[0][1][0, 1, 24, 2] += np.float32(1e-3)
        return samples

    rewrite(path, nudge)
    assert verify(folder) == [f"{path.relative_to(folder)}: {key}: found other frames, expected those of the store"]


def test_a_foreign_sample_is_named(folder: Path) -> None:
    path = shard(folder)
    rewrite(path, lambda samples: [*samples[:-1], ("foreign", *samples[-1][1:])])
    assert f"{path.relative_to(folder)}: foreign: found a sample that the store does not hold" in verify(folder)


def test_an_index_that_fits_another_shard_is_named(folder: Path) -> None:
    path = shard(folder).with_suffix(".idx")
    path.write_text(path.read_text().replace("frames.npy 512 ", "frames.npy 1024 "))
    rehash(folder)
    assert len(verify(folder)) == 1
    assert verify(folder)[0].startswith(f"{path.relative_to(folder)}: found an index that differs from its shard")


@pytest.mark.parametrize("column", ["label", "subject", "camera", "setup", "replication"])
def test_a_row_that_contradicts_its_name_is_named(folder: Path, column: str) -> None:
    set_column(folder, column, 0, 2)
    problems = verify(folder)
    assert any(line.startswith("store.zarr: S001C001P001R001A007: found SampleInfo(") for line in problems)


def test_an_impossible_number_of_bodies_is_named(folder: Path) -> None:
    set_column(folder, "bodies", 0, 3)
    assert "store.zarr: S001C001P001R001A007: found 3 bodies, expected 0 to 2" in verify(folder)


def test_a_sample_of_the_missing_list_is_named(folder: Path) -> None:
    key = np.frombuffer(b"S001C002P005R002A008", dtype=np.uint8)
    zarr.open_array(folder / "store.zarr" / "key", mode="r+")[2] = key
    rehash(folder)
    message = "store.zarr: S001C002P005R002A008: found a sample of the official missing list, expected none"
    assert message in verify(folder)


def test_keys_out_of_order_are_named(folder: Path) -> None:
    keys = zarr.open_array(folder / "store.zarr" / "key", mode="r+")
    keys[...] = np.asarray(keys[...])[::-1]
    rehash(folder)
    assert any("expected keys sorted and unique" in line for line in verify(folder))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_coordinate_that_is_not_finite_is_named(folder: Path, value: float) -> None:
    array = zarr.open_array(folder / "store.zarr" / "frames", mode="r+")
    array[4, 0, 0, 0] = value
    rehash(folder)
    message = "store.zarr: S001C001P003R001A007: found a coordinate that is not finite, expected finite ones"
    assert message in verify(folder)


def test_a_coordinate_too_large_for_half_precision_is_named_in_store_and_shard(make_folder: Make) -> None:
    folder = make_folder(dtype="float16")
    zarr.open_array(folder / "store.zarr" / "frames", mode="r+")[0, 0, 0, 0] = np.float16(np.inf)
    path = next(folder.glob("shards/ntu60-xsub-train_xview-test*/000000.tar"))
    rehash(folder)
    key = "S001C001P001R001A007"
    assert set(verify(folder)) == {
        f"store.zarr: {key}: found a coordinate that is not finite, expected finite ones",
        f"{path.relative_to(folder)}: {key}: frame 0: found a coordinate of inf m, expected at most 65504 m (float16)",
        f"{path.relative_to(folder)}: {key}: found other frames, expected those of the store",
    }


def test_a_missing_frame_file_is_named_by_all_that_need_it(folder: Path) -> None:
    file = frame_shard_file(folder / "store.zarr", 0)
    file.unlink()
    problems = verify(folder)
    assert f"{file.relative_to(folder)}: found no file, expected one that the manifest lists" in problems
    assert any("expected frames of the store" in line for line in problems)


def test_a_truncated_shard_is_named_and_the_others_still_checked(folder: Path) -> None:
    first, second = (folder / entry.path for entry in read_manifest(folder).shards[:2])
    first.write_bytes(first.read_bytes()[:3000])
    rewrite(second, lambda samples: [(k, f, r | {"label": 0}) for k, f, r in samples])
    problems = verify(folder)
    assert any(line.startswith(f"{first.relative_to(folder)}: ") and "whole tar file" in line for line in problems)
    assert any(line.startswith(f"{second.relative_to(folder)}: ") and "found label 0" in line for line in problems)


def test_the_window_of_the_recipe_is_applied_to_trimmed_actions_only(make_folder: Make) -> None:
    def half(frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return frames[::2]

    assert verify(make_folder(source="ntu"), half) == []
    folder = make_folder(source="pkummd1")
    assert len([line for line in verify(folder, half) if "found other frames" in line]) == 12


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("start", 4, "segment 0 (0002-L_000): found frames 4 to 4 of row 0"),
        ("start", -1, "segment 0 (0002-L_000): found frames -1 to 4 of row 0"),
        ("end", 41, "segment 0 (0002-L_000): found frames 0 to 41 of row 0, expected 0 <= start < end <= 40"),
        ("label", 51, "segment 0 (0002-L_000): found label 51, expected 0 to 50"),
        ("label", -1, "segment 0 (0002-L_000): found label -1"),
        ("video", 4, "segment 0: found video 4, expected 0 to 3"),
        ("row", 1, "segments: found (0, 1) after (0, 1)"),
    ],
)
def test_a_wrong_segment_is_named(make_folder: Make, column: str, value: int, message: str) -> None:
    folder = make_folder(source="pkummd1")
    set_column(folder, f"segments/{column}", 0, value)
    assert any(message in line for line in verify(folder))


def test_a_trimmed_source_with_segments_is_named(make_folder: Make) -> None:
    folder = make_folder(source="pkummd1")
    steps = read_manifest(folder).recipe_steps
    name = fingerprint("ntu", "0" * 64, steps, "float32")
    change_manifest(folder, source="ntu", fingerprint=name)
    moved = folder.rename(folder.with_name(folder_name("ntu", "raw", name)))
    assert "store.zarr: found segments, expected none for source ntu" in verify(moved)


def test_a_file_listed_twice_is_named(folder: Path) -> None:
    files: list[FileEntry] = read_manifest(folder).files
    change_manifest(folder, files=[entry.model_dump() for entry in [*files, files[0]]])
    assert verify(folder) == ["manifest.json: found a file listed twice, expected each once"]
