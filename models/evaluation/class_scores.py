"""Class scores of a test split in a file, for fusion, for plots, and for whoever wants other metrics."""

from pathlib import Path

import numpy as np
import torch

from models.evaluation.features import Features
from shards.errors import StoreError
from shards.files import atomic_path
from shards.npz import read_npz

# array of the file -> its type
_ARRAYS = {"logits": np.float32, "label": np.int64, "sample_id": np.int64}


def write_class_scores(path: Path, scores: Features) -> None:
    """Write `logits` (N, C) float32, `label` and `sample_id` (N,) int64 as .npz, whole or not at all.

    Equal scores give equal bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # a file object, for NumPy appends .npz to names
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            logits=scores.values.cpu().numpy(),
            label=scores.label.cpu().numpy(),
            sample_id=scores.sample_id.cpu().numpy(),
        )


def read_class_scores(path: Path) -> Features:
    """The class scores of a file of `write_class_scores`, as the values of `Features`.

    Raises:
        StoreError: no such file, or not such a one.
    """
    if not path.is_file():
        raise StoreError(f"{path}: found no file, expected class scores: score the task linear first")
    arrays = read_npz(path, tuple(_ARRAYS), "class scores")
    logits, label, ids = arrays.values()
    fits = logits.ndim == 2 and label.shape == ids.shape == logits.shape[:1]
    if not fits or any(arrays[name].dtype != dtype for name, dtype in _ARRAYS.items()):
        shapes = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
        raise StoreError(f"{path}: found {shapes}, expected (N, C) float32, (N,) int64 and (N,) int64")
    return Features(torch.from_numpy(logits), torch.from_numpy(label), torch.from_numpy(ids))
