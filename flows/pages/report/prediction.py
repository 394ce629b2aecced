"""What the decoder of an objective predicts of hidden joints of test samples, beside what was there."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flows.build import build_objective
from flows.config import PretrainConfig
from flows.pages.player import encode
from flows.pages.report.pool import bodies, moments
from models.objectives.objective import Objective
from models.training.checkpoint import Checkpoint
from pipelines.augmentations.operation import Crop
from pipelines.loaders.split import Item
from pipelines.views import make_views
from pipelines.views.spec import View, ViewSpec
from shards.batch import RaggedBatch, Views, unflatten
from shards.errors import CheckpointError, ConfigError
from shards.skeleton import Stream

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def predictions(config: PretrainConfig, checkpoint: Checkpoint, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Views of test samples as the run draws them in its first epoch, with hidden joints and their prediction.

    The norms use their running statistics, as for downstream tasks.

    Args:
        config: of the run.
        checkpoint: of the run.
        items: the samples; one batch, which has the same joints hidden where the run's masks are of the batch.

    Returns:
        Of each sample "id", "count" of frames, "at" (their numbers in the stored sample) "of" its frames, "bodies",
        "stream", and base64 of "truth" and "predicted" (T, M, V, C) and of "hidden" (T, M, V), of motion also of
        "still", where its joints were; "share" of the joints that are hidden; "error" and "line": mean distance in cm
        of hidden joints from the prediction, and from a straight line in time between the frames that show the joint.

    Raises:
        ConfigError: nothing is predicted in this run.
        CheckpointError: the checkpoint has no decoder, or one of another configuration.
    """
    objective = _load(config, checkpoint)
    batch, stream = _batch([item.frames for item in items], items), config.data.streams[0]
    spec = config.views.spec(config.data.streams)
    views = _views(batch, spec, config)
    with torch.inference_mode():
        predicted, target, masked = objective.predict(views, objective.draw(config.train.seed, 0, 0, len(views)))
    visible = views.masks[masked].expand_as(views.views[target])
    columns: dict[str, npt.NDArray[Any]] = {
        "truth": _rows(views.views[target]),
        "predicted": _rows(predicted),
        "hidden": np.logical_not(_rows(visible).any(axis=-1)),
        "clock": _clock(items, spec, target, config),
    }
    if stream == "motion":  # the same draws, before they become differences
        columns["still"] = _rows(_views(batch, config.views.spec(("joint",)), config).views[target])
    return [
        _describe_item(item, stream, **{name: column[row] for name, column in columns.items()})
        for row, item in enumerate(items)
    ]


def _views(batch: RaggedBatch, spec: ViewSpec, config: PretrainConfig) -> Views:
    return make_views(batch, spec, seed=config.train.seed, epoch=0, step=0)


def _clock(items: Sequence[Item], spec: ViewSpec, target: str, config: PretrainConfig) -> Floats:
    """(N, T): the frame of the stored sample that each frame of the target is from; its crop draws as in `spec`."""
    (crop,) = [operation for view in spec.views if view.name == target for operation in view.operations[:1]]
    assert isinstance(crop, Crop)
    numbers = [np.broadcast_to(_numbers(item)[:, None, None, None], item.frames.shape) for item in items]
    crops = ViewSpec(frames=spec.frames, views=(View(name=target, operations=(crop,)),))
    clock: Floats = _rows(_views(_batch(numbers, items), crops, config).views[target])[:, :, 0, 0, 0]
    return clock


def _numbers(item: Item) -> Floats:
    return np.arange(len(item.frames), dtype=np.float32)


def _load(config: PretrainConfig, checkpoint: Checkpoint) -> Objective:
    objective = build_objective(config)
    if not objective.predictor:
        raise ConfigError("This run's objective predicts nothing.")
    try:
        found = objective.load_state_dict(checkpoint.objective, strict=False)
    except RuntimeError as error:  # its text lists every tensor of another shape
        raise CheckpointError("This checkpoint has other shapes than its run's configuration says.") from error
    # imported weights lack queue and twins, which predict nothing
    missing = [name for name in found.missing_keys if name.startswith(objective.predictor)]
    if missing:
        raise CheckpointError(f"This checkpoint has no {missing[0]}, which the prediction needs.")
    return objective.eval()


def _batch(frames: Sequence[npt.NDArray[Any]], items: Sequence[Item]) -> RaggedBatch:
    length = torch.tensor([len(item.frames) for item in items])
    return RaggedBatch(
        frames=torch.from_numpy(np.concatenate(frames)),
        start=length.cumsum(0) - length,
        length=length,
        label=torch.tensor([item.label for item in items]),
        sample_id=torch.tensor([item.sample_id for item in items]),
    )


def _rows(view: Tensor) -> npt.NDArray[Any]:
    """A flat view (N, T, V*C*M) as (N, T, M, V, C)."""
    rows: npt.NDArray[Any] = unflatten(view).numpy()
    return rows


def _describe_item(
    item: Item,
    stream: Stream,
    *,
    truth: Floats,
    predicted: Floats,
    hidden: Bools,
    clock: Floats,
    still: Floats | None = None,
) -> dict[str, Any]:
    there = bodies(truth)
    truth, predicted, hidden = truth[:, :there], predicted[:, :there], hidden[:, :there]
    # a body that is not there is predicted too, and a frame without it has nothing to compare with
    present: Bools = np.asarray(truth.any(axis=(2, 3)))
    hidden = hidden & present[:, :, None]
    at = moments(len(truth))
    told = {
        "id": item.sample_id,
        "count": len(at),
        "at": np.rint(clock[at]).astype(int).tolist(),
        "of": len(item.frames),
        "bodies": there,
        "stream": stream,
        "truth": encode(truth[at]),
        "predicted": encode(np.where(hidden[..., None], predicted, truth)[at]),
        "hidden": base64.b64encode(hidden[at].astype(np.uint8).tobytes()).decode("ascii"),
        "share": round(float(hidden.mean()), 3),
        "error": _error(predicted, truth, hidden),
        "line": _error(straight(truth, hidden), truth, hidden),
    }
    return told if still is None else told | {"still": encode(still[at][:, :there])}


def _error(guess: Floats, truth: Floats, hidden: Bools) -> float | None:
    """Mean distance in centimetres over hidden joints (T, M, V); None where nothing is hidden."""
    if not hidden.any():
        return None
    return round(100 * float(np.linalg.norm((guess - truth)[hidden], axis=-1).mean()), 1)


def straight(truth: Floats, hidden: Bools) -> Floats:
    """Hidden joints on a straight line in time between the frames that show them; what is never shown, at 0.

    Args:
        truth: (T, M, V, C).
        hidden: (T, M, V).
    """
    guess = np.where(hidden[..., None], 0, truth)
    time = np.arange(len(truth))
    for body, joint in zip(*np.nonzero(hidden.any(axis=0)), strict=True):
        seen = np.logical_not(hidden[:, body, joint])
        if seen.any():
            known = truth[:, body, joint][seen]
            for axis, values in enumerate(known.T):
                guess[:, body, joint, axis] = np.interp(time, time[seen], values)
    return guess.astype(np.float32)
