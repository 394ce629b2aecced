"""The raw recordings of the golden set: trimmed ones of NTU RGB+D and one untrimmed video of PKU-MMD."""

import numpy as np

from pipelines.parsers import ntu
from shards.schema import RawSequence
from tests.numerics.golden import FOLDER, facts, found

NAMES = found(sorted(facts("ntu_files")))

(VIDEO_LABELS,) = found((FOLDER / "pku").glob("*.label.txt"))
VIDEO = VIDEO_LABELS.name.removesuffix(".label.txt")
VIDEO_FRAMES = VIDEO_LABELS.with_name(f"{VIDEO}.txt")


def parsed(name: str) -> RawSequence:
    path = FOLDER / "ntu_raw" / f"{name}.skeleton"
    return ntu.parse(path.read_bytes(), name, path.name)


def video() -> np.ndarray:
    """The frames of the video (T, M, V, C) float64, read without the parser."""
    return np.loadtxt(VIDEO_FRAMES).reshape(-1, 2, 25, 3)


def refusal(frames: int) -> str:
    """What is said of a recording without any body."""
    return f"found no body in any of {frames} frames" if frames else "found 0 frames"
