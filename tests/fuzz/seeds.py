"""Small valid inputs, from which fuzzing starts."""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from shards.encoding import STORAGES, Storage
from shards.manifest import CellEntry, FileEntry, Manifest, Outcome, ShardEntry, counts, encode_manifest
from shards.schema import FORMAT_VERSION, SampleInfo
from shards.writer import sample_record, write_shard


def _ntu(bodies_a_frame: list[int], newline: str) -> bytes:
    lines = [str(len(bodies_a_frame))]
    for frame, bodies in enumerate(bodies_a_frame):
        lines.append(str(bodies))
        for body in range(bodies):
            lines += [f"7205759403794473{body} 0 1 1 1 1 0 -0.02 1.5E-05 2", "25"]
            lines += [
                f"{0.01 * joint - 0.2:.7g} -1.{frame}{joint:02d} {3 + body}.5E-0{joint % 3} 256 212.5 960 540 0 0 0 0 2"
                for joint in range(25)
            ]
    return (newline.join(lines) + newline).encode()


def _pkummd() -> bytes:
    rows = [" ".join(f"{(n * 7 + row) % 13 - 6}.{n:06d}" for n in range(150)) for row in range(2)]
    return "\n ".join(rows).encode() + b"\n"


def _nwucla() -> bytes:
    skeletons = [[[0.1 * joint, -1.5, 2e-3] for joint in range(20)] for _ in range(2)]
    return json.dumps({"file_name": "a01_s01_e00_v01", "skeletons": skeletons, "label": 1}).encode()


def _record(key: str, num_frames: int) -> dict[str, object]:
    return sample_record(
        SampleInfo(key, 3), index=0, frames=num_frames, source="ntu", recipe="raw", fingerprint="0" * 12
    )


SHARD = [
    ("a", np.full((2, 2, 25, 3), 0.5, np.float32), _record("a", 2)),
    ("b-1", np.full((1, 2, 25, 3), -0.25, np.float32), _record("b-1", 1)),
]
"""What lies in the shard of the seeds: exact in every storage."""


def shard(dtype: Storage) -> tuple[bytes, bytes]:
    """A small shard and its index."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "000000.tar"
        write_shard(path, SHARD, dtype)
        return path.read_bytes(), path.with_suffix(".idx").read_bytes()


def _zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("inner/a.txt", b"1 2 3\n" * 9, zipfile.ZIP_DEFLATED)
        file.writestr("b.txt", b"4 5 6\n", zipfile.ZIP_STORED)
        file.writestr("c.md", b"not raw")
    return data.getvalue()


def _manifest(dtype: Storage) -> bytes:
    return encode_manifest(
        Manifest(
            format_version=FORMAT_VERSION,
            source="ntu",
            recipe="raw",
            recipe_steps=[{"name": "recipe", "recipe": "raw", "version": 1}, {"name": "order", "by": [0.5, None]}],
            inventory="0" * 64,
            fingerprint="1" * 12,
            counts=counts(sequences=2, samples=2, frames=3, dropped=1, repaired=0),
            dtype=dtype,
            max_error=0.0 if dtype == "float32" else 4.9e-5,
            cells={"c": CellEntry(memberships={"ntu60/xsub": "train"}, samples=2, frames=3)},
            shards=[ShardEntry(cell="c", path="shards/c/0.tar", index="shards/c/0.idx", samples=2, frames=3)],
            files=[FileEntry(path="shards/c/0.tar", bytes=10240, sha256="2" * 64)],
            dropped=[Outcome(key="k", reason="no frames")],
            repaired=[],
        )
    )


@cache
def seeds(target: str) -> list[bytes]:
    """Valid inputs of a target."""
    make: dict[str, Callable[[], list[bytes]]] = {
        "ntu": lambda: [_ntu([1, 0, 2], "\r\n"), _ntu([1], "\n"), b"2\n0\n0\n"],
        "pkummd1": lambda: [_pkummd()],
        "labels": lambda: [b"1,5,20,2\n51,30,400,1\r\n7,400,500,0"],
        "nwucla": lambda: [_nwucla()],
        "tar": lambda: [shard(dtype)[0] for dtype in STORAGES],
        "index": lambda: [shard("float32")[1]],
        "manifest": lambda: [_manifest("float32"), _manifest("fixed")],
        "archive": lambda: [_zip()],
    }
    return make[target]()
