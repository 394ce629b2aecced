"""Checkpoints: tensors and one JSON text, written whole or not at all, and read without running any code.

A file `checkpoints/epoch_0010.pt` holds the state after 10 whole epochs, `epoch_0010_step_000123.pt` that after 123
steps more. It is the same whatever the number of ranks, and a run may go on with another.

No generator states are in it, because a run has none: orders, views and draws are functions of (seed, epoch, step,
sample), so that the position (epoch, step) is all there is to know of them.
"""

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.torch_file import read_torch_file
from shards.errors import CheckpointError, describe_refusal
from shards.files import atomic_path, name_refusals

CHECKPOINT_VERSION = 3
FOLDER = "checkpoints"
_MAGIC = "skelstream-checkpoint"
_HEADER = ("epoch", "step", "epoch_steps", "config", "meta", "term_names")
_NAME = re.compile(r"epoch_(\d{4,})(?:_step_(\d{6,}))?\.pt")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint tells without its tensors.

    Attributes:
        epoch: whole epochs done.
        step: steps done since the run began; more than `epoch * epoch_steps` when it stopped within an epoch.
        epoch_steps: steps in an epoch.
        config: the training configuration.
        meta: what the run was made of: "fingerprint" and "recipe" of its data, the objective's configuration.
        term_names: names of the columns of `Checkpoint.terms`.
    """

    epoch: int
    step: int
    epoch_steps: int
    config: dict[str, Any]
    meta: dict[str, Any]
    term_names: tuple[str, ...] = ()

    @property
    def first_step(self) -> int:
        """Steps done of the epoch after the whole ones."""
        return self.step - self.epoch * self.epoch_steps


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Header):
    """Everything that the next step of a run depends on.

    Attributes:
        objective: state of the objective; the keys under "encoders.<stream>." are the online encoder of a stream.
        optimizer: "<parameter>/<buffer>" -> tensor.
        terms: (S, K) float64, what the monitor keeps of the S steps of the unfinished epoch, for that epoch's line of
            the log.
        losses: (E,) float64, the mean loss of each whole epoch.
    """

    objective: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    terms: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    losses: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))


def save_checkpoint(
    run: Path, checkpoint: Checkpoint, keep: int, stays: Callable[[int], bool] = lambda epoch: False
) -> Path:
    """Write a checkpoint into `run`, then remove all but the last `keep`. Returns its path.

    Args:
        run: folder of the run.
        checkpoint: what to write.
        keep: how many of the last ones stay.
        stays: whether the one after so many whole epochs stays for good.

    Raises:
        CheckpointError: a tensor holds NaN or infinity, or the disk refuses; earlier checkpoints stay, nothing else.
    """
    _refuse_non_finite(checkpoint)
    path = run / FOLDER / _file_name(checkpoint)
    # what killed processes left goes before space is needed: a full-size checkpoint takes 0.64 GB
    prune_checkpoints(run, keep, stays)
    payload = {"json": _header_text(checkpoint), "objective": checkpoint.objective, "optimizer": checkpoint.optimizer}
    payload |= {"terms": checkpoint.terms, "losses": checkpoint.losses}
    try:
        # through a file object, because torch.save would write the temporary file's name into the archive
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(payload, file)
    except (OSError, RuntimeError) as error:
        raise _unwritten(run, path, error) from error
    prune_checkpoints(run, keep, stays)
    return path


def prune_checkpoints(run: Path, keep: int, stays: Callable[[int], bool] = lambda epoch: False) -> None:
    """Remove what `save_checkpoint` would; a process may be killed before it comes to that.

    Raises:
        DiskError: one cannot be removed.
    """
    with name_refusals(run / FOLDER, what="checkpoints"):
        for epoch, within, path in _numbered(run)[:-keep]:
            if within or not stays(epoch):
                path.unlink()
        for half_written in (run / FOLDER).glob(".epoch_*.tmp"):
            half_written.unlink()


def load_checkpoint(path: Path, expect_fingerprint: str | None = None) -> Checkpoint:
    """Read a checkpoint for the CPU. Its tensors are mapped from the file: copy those that outlive it.

    Raises:
        CheckpointError: unreadable, damaged, not one of ours, of another format, or of data with another fingerprint.
    """
    payload = _read(path, whole=True)
    header = _parse_header(path, payload, expect_fingerprint)
    try:
        tensors = {name: payload[name] for name in ("objective", "optimizer", "terms", "losses")}
    except KeyError as error:
        raise _foreign(path) from error
    return Checkpoint(**vars(header), **tensors)


def read_header(path: Path, expect_fingerprint: str | None = None) -> Header:
    """What a checkpoint tells, in milliseconds: no tensor is read, so damage among the numbers is not found.

    Raises:
        CheckpointError: as `load_checkpoint`, a truncated file included.
    """
    return _parse_header(path, _read(path, whole=False), expect_fingerprint)


def latest_checkpoint(run: Path) -> Path | None:
    """The checkpoint that is furthest along; None when the run has none."""
    found = _numbered(run)
    return found[-1][2] if found else None


def encoder_state(checkpoint: Checkpoint, stream: str) -> dict[str, Tensor]:
    """The state of the online encoder of a stream, its keys without the prefix "encoders.<stream>.".

    Raises:
        CheckpointError: the objective has no encoder of that stream.
    """
    return part_of_state(checkpoint.objective, f"encoders.{stream}.")


def part_of_state(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it.

    Raises:
        CheckpointError: there is none.
    """
    found = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not found:
        raise CheckpointError(f"found the entries {sorted(state)}, expected some under {prefix!r}")
    return found


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
        # on the CPU the optimiser would otherwise keep the very tensor, which may be mapped from a file
        state.setdefault(numbers[name], {})[key] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _header_text(checkpoint: Checkpoint) -> str:
    header = {name: getattr(checkpoint, name) for name in _HEADER} | {"magic": _MAGIC, "version": CHECKPOINT_VERSION}
    return json.dumps(header, sort_keys=True, allow_nan=False)


def _parse_header(path: Path, payload: Mapping[str, Any], fingerprint: str | None) -> Header:
    try:
        values = json.loads(payload["json"])
        version = values.pop("version")
        if values.pop("magic") != _MAGIC:
            raise _foreign(path)
        if version != CHECKPOINT_VERSION:
            raise CheckpointError(
                f"{path}: found checkpoint format {version}, expected {CHECKPOINT_VERSION}: it was written by another"
                " version of skelstream; evaluate it with that, or train anew"
            )
        header = Header(**values | {"term_names": tuple(values["term_names"])})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise _foreign(path) from error
    found = header.meta.get("fingerprint")
    if fingerprint is not None and found != fingerprint:
        raise CheckpointError(f"{path}: found a checkpoint of data {found}, expected one of data {fingerprint}")
    return header


def _read(path: Path, *, whole: bool) -> dict[str, Any]:
    """The entries of a checkpoint, its tensors mapped; `whole` compares all checksums, else those of the structure."""
    payload = read_torch_file(
        path,
        "a skelstream checkpoint",
        "remove it to go on from the one before",
        mapped=True,
        damaged=zipfile.ZipFile.testzip if whole else _damaged_structure,
    )
    if not isinstance(payload, dict):
        raise _foreign(path)
    return payload


def _damaged_structure(archive: zipfile.ZipFile) -> str | None:
    """The first damaged entry of those that hold no tensors; the header is in one of them."""
    for name in archive.namelist():
        if "/data/" not in name:
            try:
                archive.read(name)
            except zipfile.BadZipFile:
                return name
    return None


def _foreign(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: found a file of another program, expected a skelstream checkpoint")


def _unwritten(run: Path, path: Path, error: Exception) -> Exception:
    """What to raise for a failed write."""
    cause: BaseException | None = error  # torch wraps what the file raised
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    if cause is None:
        return error
    found, expected = describe_refusal(cause)
    before = latest_checkpoint(run)
    return CheckpointError(
        f"{path}: found {found}, expected {expected} for a checkpoint; "
        + (f"{before.name} stays, resume from it" if before else "no earlier one is there")
    )


def _refuse_non_finite(checkpoint: Checkpoint) -> None:
    tensors = {**checkpoint.objective, **checkpoint.optimizer}
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    # sums of magnitudes keep NaN and infinity, in a fifth of the time that isfinite takes on a CPU core
    sums = [total.double() for total in torch._foreach_norm(list(floating.values()), 1)] if floating else []
    finite = torch.stack(sums).isfinite().tolist() if sums else []
    bad = [name for name, fine in zip(floating, finite, strict=True) if not fine]
    if bad:
        raise CheckpointError(
            f"after {checkpoint.epoch} epochs, {checkpoint.step} steps: found NaN or infinity in {', '.join(bad)}, "
            "expected finite numbers; no checkpoint written"
        )


def _file_name(header: Header) -> str:
    within = f"_step_{header.first_step:06d}" if header.first_step else ""
    return f"epoch_{header.epoch:04d}{within}.pt"


def _numbered(run: Path) -> list[tuple[int, int, Path]]:
    """Epoch, step within it and path of all checkpoints of a run, the furthest last."""
    found = []
    for path in (run / FOLDER).glob("*.pt"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2] or 0), path))
    return sorted(found)
