"""Checkpoints: tensors and one JSON text, written whole or not at all, and read without running any code.

A file `checkpoints/epoch_0010.pt` holds the state after 10 whole epochs, `epoch_0010_step_000123.pt` that after 123
steps more.
"""

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.errors import CheckpointError
from shards.manifest import atomic_path

CHECKPOINT_VERSION = 1
FOLDER = "checkpoints"
_MAGIC = "skelstream-checkpoint"
_NAME = re.compile(r"epoch_(\d{4,})(?:_step_(\d{6,}))?\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next step of a run depends on.

    Attributes:
        epoch: whole epochs done.
        step: steps done since the run began; more than `epoch * epoch_steps` when it stopped within an epoch.
        epoch_steps: steps in an epoch.
        config: the training configuration.
        meta: what the run was made of: "fingerprint" and "recipe" of its data, the objective's configuration.
        objective: state of the objective; the keys under "encoder." are the online encoder.
        optimizer: "<parameter>/<buffer>" -> tensor.
        terms: (S, K) float64, the loss terms of the S steps of the unfinished epoch, for that epoch's line of the log.
        term_names: names of the K terms.
    """

    epoch: int
    step: int
    epoch_steps: int
    config: dict[str, Any]
    meta: dict[str, Any]
    objective: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    terms: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    term_names: tuple[str, ...] = ()

    @property
    def first_step(self) -> int:
        """Steps done of the epoch after the whole ones."""
        return self.step - self.epoch * self.epoch_steps


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into `run`, then remove all but the last `keep`. Returns its path.

    Raises:
        CheckpointError: a tensor holds NaN or infinity; nothing is written, and earlier checkpoints stay.
    """
    _refuse_non_finite(checkpoint)
    path = run / FOLDER / _file_name(checkpoint)
    payload = {"json": _header(checkpoint), "objective": checkpoint.objective, "optimizer": checkpoint.optimizer}
    payload["terms"] = checkpoint.terms
    # through a file object, because torch.save would write the temporary file's name into the archive
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(payload, file)
    # with what a killed process left half-written: a full-size checkpoint takes 0.6 GB
    for old in [*_checkpoints(run)[:-keep], *path.parent.glob(".epoch_*.tmp")]:
        old.unlink()
    return path


def load_checkpoint(path: Path, expect_fingerprint: str | None = None) -> Checkpoint:
    """Read a checkpoint to the CPU.

    Raises:
        CheckpointError: unreadable, damaged, not one of ours, of another format, or of data with another fingerprint.
    """
    payload = _read(path)
    try:
        header = json.loads(payload["json"])
        version = header.pop("version")
        if header.pop("magic") != _MAGIC:
            raise _foreign(path)
        if version != CHECKPOINT_VERSION:
            raise CheckpointError(f"{path}: found checkpoint format {version}, expected {CHECKPOINT_VERSION}")
        tensors = {name: payload[name] for name in ("objective", "optimizer", "terms")}
        checkpoint = Checkpoint(term_names=tuple(header.pop("term_names")), **header, **tensors)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise _foreign(path) from error
    _check_fingerprint(path, checkpoint, expect_fingerprint)
    return checkpoint


def latest_checkpoint(run: Path) -> Path | None:
    """The checkpoint that is furthest along; None when the run has none."""
    found = _checkpoints(run)
    return found[-1] if found else None


def encoder_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The online encoder's state, its keys without the prefix "encoder.".

    Raises:
        CheckpointError: the objective has no encoder.
    """
    state = {
        name.removeprefix("encoder."): tensor
        for name, tensor in checkpoint.objective.items()
        if name.startswith("encoder.")
    }
    if not state:
        raise CheckpointError(f"found the entries {sorted(checkpoint.objective)}, expected some under 'encoder.'")
    return state


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimiser's buffers as "<parameter>/<buffer>"; `names` gives the parameter of each number."""
    states: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{names[number]}/{key}": torch.as_tensor(value)
        for number, state in states.items()
        for key, value in state.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], names: Mapping[int, str]) -> None:
    """Put the buffers of `optimizer_tensors` back.

    Raises:
        CheckpointError: a buffer of a parameter that is not trained here.
    """
    numbers = {name: number for number, name in names.items()}
    state: dict[int, dict[str, Tensor]] = {}
    for entry, tensor in tensors.items():
        name, _, key = entry.rpartition("/")
        if name not in numbers:
            raise CheckpointError(f"found optimiser state of {name!r}, expected one of the trained {sorted(numbers)}")
        state.setdefault(numbers[name], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _header(checkpoint: Checkpoint) -> str:
    header = {
        "magic": _MAGIC,
        "version": CHECKPOINT_VERSION,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "epoch_steps": checkpoint.epoch_steps,
        "config": checkpoint.config,
        "meta": checkpoint.meta,
        "term_names": checkpoint.term_names,
    }
    return json.dumps(header, sort_keys=True, allow_nan=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        # torch itself does not compare the archive's checksums; about 1 s a GB
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # reading a damaged archive fails in a dozen ways, and torch's texts advise unpickling
        raise CheckpointError(
            f"{path}: found a file that cannot be read ({type(error).__name__}), expected a skelstream checkpoint; "
            "remove it to go on from the one before"
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: found damaged data ({damaged}), expected a whole checkpoint; "
            "remove it to go on from the one before"
        )
    if not isinstance(payload, dict):
        raise _foreign(path)
    return payload


def _foreign(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: found a file of another program, expected a skelstream checkpoint")


def _check_fingerprint(path: Path, checkpoint: Checkpoint, expected: str | None) -> None:
    found = checkpoint.meta.get("fingerprint")
    if expected is not None and found != expected:
        raise CheckpointError(f"{path}: found a checkpoint of data {found}, expected one of data {expected}")


def _refuse_non_finite(checkpoint: Checkpoint) -> None:
    tensors = {**checkpoint.objective, **checkpoint.optimizer}
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"after {checkpoint.epoch} epochs, {checkpoint.step} steps: found NaN or infinity in {', '.join(bad)}, "
            "expected finite numbers; no checkpoint written"
        )


def _file_name(checkpoint: Checkpoint) -> str:
    within = f"_step_{checkpoint.first_step:06d}" if checkpoint.first_step else ""
    return f"epoch_{checkpoint.epoch:04d}{within}.pt"


def _checkpoints(run: Path) -> list[Path]:
    """All checkpoints of a run, the furthest last."""
    found = []
    for path in (run / FOLDER).glob("*.pt"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2] or 0), path))
    return [path for _, _, path in sorted(found)]
