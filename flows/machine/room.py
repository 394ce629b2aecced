"""Whether disk and memory are enough for what was asked, before it begins.

What is compared with the free room is a lower bound, told as such: it counts what is certainly there at one time, and
neither activations nor what libraries keep for themselves. So what passes may still run short, and what is refused
could not have ended well.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from flows.build import build_objective, pick_loader
from flows.config import PretrainConfig
from flows.options import LoaderOptions
from flows.tasks.bench import Bench, Subject
from models.evaluation.feature_store import ABOUT
from models.training.checkpoint import FOLDER
from models.training.optimizers import SGDConfig
from models.training.schedule import TrainConfig
from pipelines.conversion.convert import default_scratch, find_existing
from pipelines.loaders.split import Split
from pipelines.planning.forecast import plan
from shards.amounts import describe_bytes
from shards.encoding import FRAME_SHAPE, Storage
from shards.errors import ShortageError
from shards.places import Place, place
from shards.sources import Side

_FLOAT = 4  # bytes
# tasks that read the whole of a side as features of the frozen encoder, kept on disk, by their defaults
_FEATURES: dict[str, tuple[Side, ...]] = {"linear": ("test",), "retrieval": ("train", "test")}
_MEMINFO, _CGROUPS, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class ModelBytes:
    """What a method's tensors take.

    Attributes:
        state: parameters, their twins, queues and statistics: what a checkpoint holds of the objective.
        encoder: of these, the online encoder alone.
        trained: parameters that gradients reach; as much again are their gradients, and each moment.
        moments: that the optimiser keeps of each: 1 of SGD with momentum, 2 of Adam.
    """

    state: int
    encoder: int
    trained: int
    moments: int = 1

    @property
    def checkpoint(self) -> int:
        """Tensors of a checkpoint; the file is some hundred bytes a tensor larger."""
        return self.state + self.moments * self.trained

    @property
    def training(self) -> int:
        """What a step holds at one time, without activations."""
        return self.state + (1 + self.moments) * self.trained


def model_bytes(config: PretrainConfig) -> ModelBytes:
    """By a model without numbers, on torch's device "meta"."""
    with torch.device("meta"):
        model = build_objective(config)
    idle = tuple(model.unreached)
    trained = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(idle)]
    moments = 1 if isinstance(config.train.optimizer, SGDConfig) else 2
    return ModelBytes(
        state=_bytes(model.state_dict().values()),
        encoder=_bytes(next(iter(model.encoders.values())).state_dict().values()),
        trained=_bytes(trained),
        moments=moments,
    )


def kept_checkpoints(config: TrainConfig) -> int:
    """Checkpoints that lie in the folder at the end of a run: the last ones, and those that stay for good."""
    total = config.total_epochs
    saved = [e for e in range(1, total + 1) if e % config.checkpoint_every == 0 or e == total or config.stays(e)]
    return len({*saved[-config.keep_checkpoints :], *filter(config.stays, saved)})


def check_pretrain(
    config: PretrainConfig, split: Split, loader: LoaderOptions, run: Path, device: torch.device, *, ranks: int = 1
) -> None:
    """Refuse a training for whose checkpoints the disk, or for whose tensors a memory has no room.

    Args:
        config: of the run.
        split: what it trains on.
        loader: how samples reach the device.
        run: folder of the run, which may have some of the checkpoints already.
        device: of this rank.
        ranks: processes of this machine that train together; on the CPU they share one memory.

    Raises:
        ShortageError: what is short, how much is there, and how much is needed at least.
    """
    model, count = model_bytes(config), kept_checkpoints(config.train)
    there = sum(path.stat().st_size for path in (run / FOLDER).glob("*.pt"))
    _check_disk(
        run,
        (count + 1) * model.checkpoint - there,
        f"{count} checkpoints of {describe_bytes(model.checkpoint)} and one in writing"
        + (f", {describe_bytes(there)} of which are there" if there else "")
        + " (train.keep_checkpoints, train.keep_every)",
    )
    parts = {"parameters, twins, queue, gradients and momentum": model.training, **_resident(split, loader, device)}
    if device.type == "cpu":
        _check_memory(device, {f"{ranks} times {name}" if ranks > 1 else name: ranks * b for name, b in parts.items()})
    else:
        _check_memory(torch.device("cpu"), {"a model on its way to the GPU": ranks * model.state})
        _check_memory(device, parts)


def check_evaluate(bench: Bench, tasks: Sequence[str]) -> None:
    """Refuse an evaluation for whose features the disk, or for whose samples a memory has no room.

    Counted are the encoder, and what is not kept yet of the features that `linear` and `retrieval` read.

    Raises:
        ShortageError: as of `check_pretrain`.
    """
    missing = _missing_features(bench, tasks)
    width = _feature_width(bench) if bench.options.layer == "last" else 1  # of others a lower bound
    splits = {side: bench.benchmark.split(side) for side in dict.fromkeys(side for _, side in missing)}
    needed = sum(splits[side].num_samples * (width * _FLOAT + 16) for _, side in missing)
    _check_disk(bench.run / "features", needed, f"features of {len(missing)} sides of the data set")
    parts = {"the encoder": model_bytes(bench.config).encoder}
    for split in splits.values():
        parts |= _resident(split, bench.benchmark.loader, bench.device)
    _check_memory(bench.device, parts)


def _feature_width(bench: Bench) -> int:
    with torch.device("meta"):
        return bench.config.objective.encoder.build().width


def check_preprocess(
    source: str, raw: Sequence[Place | str], out: Place | str, *, recipe: str, dtype: Storage, scratch: Path | None
) -> None:
    """Refuse a conversion for which the disk has no room, by the forecast of `skelstream plan`, at its lower end.

    Where the forecast cannot tell, as when no recording of its sample could be converted, nothing is refused.

    Args: as of `pipelines.conversion.convert.convert`.

    Raises:
        ShortageError: as of `check_pretrain`.
        ConfigError, RawInputError: as `pipelines.planning.forecast.plan`.
    """
    where = place(out)
    forecast = plan(source, raw, where, recipe, dtype)
    folder = where if isinstance(where, Path) else scratch or default_scratch()
    begun = [path for path in folder.glob(f".{source}-{recipe}-*.partial") if not path.is_symlink()]
    there = sum(f.stat().st_size for path in begun for f in path.rglob("*") if f.is_file() and not f.is_symlink())
    least = forecast.work_bytes.value - 2 * forecast.work_bytes.error - there
    if math.isnan(least):
        return
    try:
        _check_disk(folder, int(least), f"a conversion of {len(forecast.inventory.listed):,} recordings")
    except ShortageError:
        # asked last: of plain files it reads every byte
        if find_existing(source, raw, where, recipe=recipe, dtype=dtype) is None:
            raise


def free_disk(folder: Path) -> int:
    """Bytes that a user may still write where the folder is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take of a device's memory; of the host's, what its control group allows."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([_host_memory(), *_group_memory()])


def _host_memory() -> int:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):  # not Linux: all that there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_memory() -> list[int]:
    """What is left in each control group (version 2) above this process that has a limit."""
    try:
        own = next(line[3:] for line in _CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group, found = _CGROUPS / own.strip("/"), []
    for folder in (group, *(path for path in group.parents if path.is_relative_to(_CGROUPS))):
        try:
            limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit != "max":  # the kernel gives cached files back when memory is asked for
            found.append(max(0, int(limit) - int(used) + int(statistics.get("inactive_file", 0))))
    return found


def _resident(split: Split, loader: LoaderOptions, device: torch.device) -> dict[str, int]:
    """Frames of a split that is held on the device, if it is."""
    if pick_loader(split, loader.loader, device)[0] != "resident":
        return {}
    entries = split.num_frames * FRAME_SHAPE[0] * FRAME_SHAPE[1] * FRAME_SHAPE[2]
    names = " and ".join(source.name for source in split.sources)
    return {f"the frames of {names}": entries * split.dtype.itemsize}


def _missing_features(bench: Bench, tasks: Sequence[str]) -> list[tuple[Subject, Side]]:
    """Features that the tasks read, or have read, and that are not kept."""
    subjects: tuple[Subject, ...] = ("trained", "random encoder") if bench.options.baselines else ("trained",)
    wanted = {side for name in tasks for side in _FEATURES.get(name, ())}
    kept = [_about(path) for path in (bench.run / "features").glob(f"*/{ABOUT}")]
    sides = [side for side in get_args(Side) if side in wanted]
    return [(subject, side) for subject in subjects for side in sides if not _is_kept(bench, subject, side, kept)]


def _is_kept(bench: Bench, subject: Subject, side: Side, kept: Iterable[dict[str, object]]) -> bool:
    benchmark = bench.benchmark
    wanted = {"side": side, "layer": bench.options.layer, "protocol": benchmark.protocol, "stream": benchmark.stream}
    for about in kept:
        encoder = about.get("encoder")
        name, value = ("checkpoint_sha256", bench.source.sha256) if subject == "trained" else ("random", None)
        of_subject = isinstance(encoder, dict) and name in encoder and value in (None, encoder[name])
        if of_subject and all(about.get(key) == value for key, value in wanted.items()):
            return True
    return False


def _about(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_bytes())["about"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # damaged: the evaluation says so
    return found if isinstance(found, dict) else {}


def _check_disk(folder: Path, needed: int, what: str) -> None:
    free = free_disk(folder)
    if needed > free:
        raise ShortageError(
            f"{folder}: found {describe_bytes(free)} free on this disk, expected at least {describe_bytes(needed)} for"
            f" {what}; make room or choose another folder"
        )


def _check_memory(device: torch.device, parts: dict[str, int]) -> None:
    free, needed = free_memory(device), sum(parts.values())
    if needed > free:
        listed = ", ".join(f"{describe_bytes(count)} for {name}" for name, count in parts.items())
        raise ShortageError(
            f"memory of {device}: found {describe_bytes(free)} free, expected at least {describe_bytes(needed)}:"
            f" {listed} (a lower bound, without activations); --loader stream holds a few batches only"
        )


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
