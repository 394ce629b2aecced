"""Small valid inputs, from which fuzzing starts."""

import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from shards.manifest import MANIFEST
from shards.schema import SampleInfo
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


def _shard() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "000000.tar"
        record = {
            key: sample_record(SampleInfo(key, 3), index=0, frames=2, source="ntu", recipe="raw", fingerprint="0" * 12)
            for key in ("a", "b")
        }
        write_shard(path, [(key, np.full((2, 2, 25, 3), 0.5, np.float32), record[key]) for key in ("a", "b")])
        return path.read_bytes(), path.with_suffix(".idx").read_bytes()


def _zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("inner/a.txt", b"1 2 3\n" * 9, zipfile.ZIP_DEFLATED)
        file.writestr("b.txt", b"4 5 6\n", zipfile.ZIP_STORED)
        file.writestr("c.md", b"not raw")
    return data.getvalue()


def _manifest() -> bytes:
    from pipelines.convert import convert
    from pipelines.synthetic import synthesize

    with tempfile.TemporaryDirectory() as folder:
        raw = synthesize("ntu", Path(folder) / "raw", subjects=2, classes=2, samples=2, seed=0, zipped=True)
        return (convert("ntu", [raw], Path(folder) / "data", workers=0).folder / MANIFEST).read_bytes()


def seeds(target: str) -> list[bytes]:
    """Valid inputs of a target."""
    if target in ("tar", "index"):
        return [_shard()[target == "index"]]
    return {
        "ntu": lambda: [_ntu([1, 0, 2], "\r\n"), _ntu([1], "\n"), b"2\n0\n0\n"],
        "pkummd1": lambda: [_pkummd()],
        "labels": lambda: [b"1,5,20,2\n51,30,400,1\r\n7,400,500,0"],
        "nwucla": lambda: [_nwucla()],
        "manifest": lambda: [_manifest()],
        "archive": lambda: [_zip()],
    }[target]()
