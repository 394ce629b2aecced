"""How fast raw text becomes arrays, beside an obvious reference and beside the targets.

    OMP_NUM_THREADS=1 python tests/benchmarks/parsing.py [--files 24] [--rounds 9]

Every row compares two things in one run, turn by turn, and gives the median of the ratios of neighbouring turns: on a
shared machine only these mean something.
"""

import argparse
import io
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from pipelines.archives import RawFile, find_files
from pipelines.parsers import ntu, parse, scan
from pipelines.preprocessing.normalize import normalize
from pipelines.preprocessing.recipes import recipe
from pipelines.synthetic import synthesize

MEAN_FRAMES = 105
PCM3 = recipe("pcm3", "ntu")
JOINT_FIELDS = "x y z depthX depthY colorX colorY orientationW orientationX orientationY orientationZ trackingState"
HEADER_FIELDS = "bodyID clipped leftConfidence leftState rightConfidence rightState restricted leanX leanY tracking"


def reference_parse(text: str) -> np.ndarray:
    """Token by token into dictionaries, as the published readers of this format do: (3, T, 25, 4)."""
    lines, fields = io.StringIO(text), JOINT_FIELDS.split()

    def numbers(fields: list[str]) -> dict[str, float]:
        return {field: float(token) for field, token in zip(fields, lines.readline().split(), strict=True)}

    frames = []
    for _ in range(int(lines.readline())):
        bodies = []
        for _ in range(int(lines.readline())):
            body: dict[str, Any] = numbers(HEADER_FIELDS.split())
            body["joints"] = [numbers(fields) for _ in range(int(lines.readline()))]
            bodies.append(body)
        frames.append(bodies)
    data = np.zeros((3, len(frames), 25, 4))
    for t, bodies in enumerate(frames):
        for m, body in enumerate(bodies[:4]):
            for v, joint in enumerate(body["joints"]):
                data[:, t, v, m] = [joint["x"], joint["y"], joint["z"]]
    return data


def reference_choose(data: np.ndarray) -> np.ndarray:
    """The two slots of largest spread, in 300 frames: (2, 300, 25, 3) float32."""

    def spread(body: np.ndarray) -> float:
        body = body[body.sum((1, 2)) != 0]
        return sum(body[..., c].std() for c in range(3)) if len(body) else 0.0

    bodies = data.transpose(3, 1, 2, 0)
    order = np.argsort([-spread(body) for body in bodies], kind="stable")[:2]
    chosen = np.zeros((2, 300, 25, 3), np.float32)
    chosen[:, : bodies.shape[1]] = bodies[order, :300]
    return chosen


def reference_fill(body: np.ndarray) -> None:
    if body.sum() == 0:
        return
    if body[0].sum() == 0:
        full = [frame for frame in body.copy() if frame.sum() != 0]
        body[:] = 0
        body[: len(full)] = full
    for t, frame in enumerate(body):
        if frame.sum() == 0 and body[t:].sum() == 0:
            body[t:] = list(islice(cycle(body[:t].copy()), len(body) - t))
            return


def reference_matrix(vector: np.ndarray, target: list[int]) -> np.ndarray:
    axis = np.cross(vector, target)
    if np.abs(axis).sum() < 1e-6 or np.abs(vector).sum() < 1e-6:
        return np.eye(3)
    angle = np.arccos(np.clip(np.dot(vector, target) / np.linalg.norm(vector), -1, 1))
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def reference_normalize(bodies: np.ndarray) -> np.ndarray:
    """Fill and centre body by body, align joint by joint: (2, 300, 25, 3)."""
    for body in bodies:
        reference_fill(body)
    centres = bodies[0, :, 1].copy()
    for body in bodies:
        if body.sum() == 0:
            continue
        body[:] = (body - centres[:, None]) * (body.sum(-1, keepdims=True) != 0)
    for start, stop, target in ((0, 1, [0, 0, 1]), (4, 8, [1, 0, 0])):
        matrix = reference_matrix(bodies[0, 0, stop].astype(float) - bodies[0, 0, start].astype(float), target)
        for body in bodies:
            if body.sum() == 0:
                continue
            for t, frame in enumerate(body):
                if frame.sum() == 0:
                    continue
                for v, joint in enumerate(frame):
                    body[t, v] = np.dot(matrix, joint)
    return bodies


def reference(data: bytes) -> np.ndarray:
    """Text -> (T, 2, 25, 3) float32."""
    parsed = reference_parse(data.decode())
    return reference_normalize(reference_choose(parsed)).transpose(1, 0, 2, 3)[: parsed.shape[1]]


def ours(data: bytes) -> np.ndarray:
    """The same by skelstream."""
    return PCM3.window(PCM3.sample(parse("ntu", data, "S001C001P001R001A001", "file")).frames)


def stretched(data: bytes, factor: float) -> bytes:
    """A recording with its frames repeated until there are `factor` times as many."""
    lines = data.splitlines(keepends=True)
    frames, at = [], 1
    while at < len(lines):
        stop = at + 1 + 27 * int(lines[at])
        frames.append(b"".join(lines[at:stop]))
        at = stop
    count = round(len(frames) * factor)
    newline = b"\r\n" if lines[0].endswith(b"\r\n") else b"\n"
    return b"%d%s" % (count, newline) + b"".join(islice(cycle(frame.rstrip() + newline for frame in frames), count))


def make_ntu(folder: Path, files: int) -> list[RawFile]:
    """A zip of synthetic recordings of the official mean length."""
    raw = synthesize("ntu", folder / "raw", subjects=10, classes=20, samples=files, seed=0, zipped=True)
    found = [(f, f.read()) for f in find_files([raw], (".skeleton",))]
    found = [(f, data) for f, data in found if ntu.parse(data, f.name, f.origin).num_bodies.any()]
    mean = statistics.mean(int(data.split(maxsplit=1)[0]) for _, data in found)
    archive = folder / "ntu.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as out:
        for file, data in found:
            out.writestr(f"{file.name}.skeleton", stretched(data, MEAN_FRAMES / mean))
    return find_files([archive], (".skeleton",))


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(rounds: int, first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median of seconds of `first` over seconds of `second`, turn by turn, and the least seconds of `second`."""
    pairs = [(seconds(first), seconds(second)) for _ in range(rounds + 1)][1:]
    return statistics.median(a / b for a, b in pairs), min(b for _, b in pairs)


def row(name: str, value: str, target: str, note: str) -> None:
    print(f"{name:44} {value:>8} {target:>8}   {note}", flush=True)


def measure_text(texts: list[bytes], rounds: int) -> None:
    few = texts[:6]
    for data in few:
        np.testing.assert_allclose(ours(data), reference(data), atol=2e-6)
    turns = 40  # otherwise a turn is too short to time
    ratio, least = compare(
        rounds, lambda: [reference(data) for data in few], lambda: [ours(data) for _ in range(turns) for data in few]
    )
    speed = turns * sum(map(len, few)) / least / 1e6
    slow = speed / ratio / turns
    row(
        "text -> arrays against frame by frame",
        f"{ratio * turns:.0f}x",
        "150x",
        f"{speed:,.0f} against {slow:.1f} MB/s",
    )


def measure_parts(texts: list[bytes], rounds: int) -> None:
    """Where the time of text -> arrays goes."""
    arrays = [np.frombuffer(data, np.uint8) for data in texts]
    raws = [parse("ntu", data, "S001C001P001R001A001", "file") for data in texts]
    samples = [PCM3.sample(raw).frames for raw in raws]
    small = b"1\n1\n" + b"\n".join(texts[0].replace(b"\r", b"").split(b"\n")[2:29]) + b"\n"
    works: dict[str, tuple[Callable[[], object], int]] = {
        "whole": (lambda: [ours(data) for data in texts], sum(map(len, texts))),
        "kernel parse alone": (lambda: [scan.ntu(a, ntu.MAX_SLOTS) for a in arrays], sum(map(len, texts))),
        "sample (bodies, checks, quality)": (lambda: [PCM3.sample(raw) for raw in raws], sum(map(len, texts))),
        "normalise alone": (lambda: [normalize(frames) for frames in samples], sum(map(len, texts))),
        "a file of one frame: overhead": (lambda: [ours(small) for _ in texts], len(texts) * len(small)),
    }
    for name, (work, size) in works.items():
        least = min(seconds(work) for _ in range(rounds))
        row(f"  {name}", f"{least / len(texts) * 1e6:.0f} us", "", f"a file; {size / least / 1e6:,.0f} MB/s of text")


def measure_zip(files: list[RawFile], rounds: int) -> None:
    members = []
    with zipfile.ZipFile(files[0].path) as archive:
        for info in archive.infolist():
            with Path(files[0].path).open("rb") as file:
                file.seek(info.header_offset + 30 + len(info.filename.encode()) + len(info.extra))
                members.append((file.read(info.compress_size), info.file_size))

    def inflate() -> None:
        for _ in range(4):
            for packed, size in members:
                # One byte more spares it a second buffer of twice the size.
                assert len(isal_zlib.decompress(packed, -15, size + 1)) == size

    def convert(chosen: list[RawFile]) -> None:
        for _ in range(4):
            for file in chosen:
                ours(file.read())

    size = 4 * sum(size for _, size in members)
    ratio, least = compare(rounds, inflate, lambda: convert(files))
    row("zip -> arrays, share of ISA-L alone", f"{ratio:.0%}", "65%", f"{size / least / 1e6:,.0f} MB/s, one core")
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        halves = [files[::2], files[1::2]]
        ratio, least = compare(rounds, lambda: list(one.map(convert, halves)), lambda: list(two.map(convert, halves)))
    row("zip -> arrays, two threads against one", f"{ratio:.2f}x", "1.7x", f"{size / least / 1e6:,.0f} MB/s")


def measure_pku(folder: Path, rounds: int) -> None:
    raw = synthesize("pkummd1", folder / "pku", subjects=4, classes=51, samples=2, seed=0, zipped=False)
    path = next(p for p in sorted(raw.rglob("*.txt")) if "PKU_Skeleton_Renew" in p.parts)
    data = path.read_bytes()
    labels = np.loadtxt(raw / "Label_PKUMMD" / "Train_Label_PKU_final" / path.name, delimiter=",", dtype=int)

    def every_action() -> list[np.ndarray]:
        return [np.loadtxt(path)[start:end] for _, start, end, _ in labels]

    def once() -> list[np.ndarray]:
        frames = parse("pkummd1", path.read_bytes(), path.stem, path.name).frames
        return [frames[start:end] for _, start, end, _ in labels]

    for a, b in zip(every_action(), once(), strict=True):
        np.testing.assert_array_equal(a, b.reshape(a.shape))
    frames = data.splitlines()
    ratio, least = compare(rounds, every_action, once)
    note = f"{len(data) / least / 1e6:,.0f} MB/s; {len(labels)} actions, {len(frames):,} frames"
    row("PKU-MMD video once against once an action", f"{ratio:.0f}x", "80x", note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = make_ntu(Path(folder), options.files)
        texts = [file.read() for file in files]
        frames = statistics.mean(int(data.split(maxsplit=1)[0]) for data in texts)
        size = statistics.mean(map(len, texts))
        print(f"{len(texts)} synthetic NTU files, mean {size / 1e3:.0f} kB and {frames:.0f} frames")
        row("", "ratio", "target", "")
        measure_text(texts, options.rounds)
        measure_parts(texts, options.rounds)
        measure_zip(files, options.rounds)
        measure_pku(Path(folder), options.rounds)


if __name__ == "__main__":
    main()
