"""Which of the listed bodies are the persons of a sample. Axis legend in `shards.schema`; S is a slot."""

from typing import Any

import numpy as np
import numpy.typing as npt

from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

MAX_SLOTS = 4
"""Slots that take part in the choice; a fifth body of a frame and further ones are left out."""


def present(frames: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a body is: (T, S, V, C) -> (T, S). Absent means that its coordinates SUM to exactly 0 (JHang2020/PCM3)."""
    from pipelines.preprocessing import kernels  # not above: Numba takes 0.3 s to import

    if frames.dtype not in (np.float32, np.float64):
        frames = frames.astype(np.float64)
    return kernels.present(_contiguous(frames))


def _contiguous(frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
    assert frames.shape[2:] == (NUM_JOINTS, NUM_COORDINATES)
    return np.ascontiguousarray(frames)


def energies(frames: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far each slot's body spreads: (T, S, V, C) -> (S,) metres; 0 for a slot that is always empty.

    The sum over x, y, z of the standard deviation over all joints of all frames in which the slot is present. It
    measures the extent in space more than the movement (rule of JHang2020/PCM3, `data_gen/ntu_gendata.py`).
    """
    from pipelines.preprocessing import kernels  # not above: Numba takes 0.3 s to import

    return kernels.energies(_contiguous(frames.astype(np.float64, copy=False)), frames.shape[1])


def choose_slots(frames: npt.NDArray[np.float64], keep: int = NUM_PERSONS) -> npt.NDArray[np.int64]:
    """The `keep` slots of largest energy, the largest (the main body) first; of equal ones the lower slot first."""
    return np.argsort(-energies(frames), kind="stable")[:keep]


def choose_bodies(frames: npt.NDArray[np.float64], slots: int = MAX_SLOTS) -> tuple[npt.NDArray[np.float32], int, int]:
    """The two persons of a sample, the main one first: (T, S, V, C) -> (T, 2, V, C), zeros where there is none.

    Returns:
        Their frames, how many of them are ever there, and how many slots are.
    """
    from pipelines.preprocessing import kernels  # not above: Numba takes 0.3 s to import

    return kernels.choose(_contiguous(frames.astype(np.float64, copy=False)), slots)


def as_persons(frames: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bring (T, S, V, C) to two slots: further ones are left out, missing ones are zeros."""
    frames = frames[:, :NUM_PERSONS]
    missing = NUM_PERSONS - frames.shape[1]
    return np.pad(frames, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else frames


def count_bodies(frames: npt.NDArray[Any]) -> int:
    """Persons that are present in at least one frame of (T, M, V, C)."""
    return int(present(frames).any(axis=0).sum())
