"""The one place that joins the siblings: loaders and views of `pipelines` with encoders and objectives of `models`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from flows.config import DataConfig, LoaderKind, PretrainConfig
from models.encoders.gru import GRUEncoder
from models.objectives.pcm3pp import PCM3PP
from pipelines.loaders import Loader
from pipelines.loaders.resident import ResidentLoader
from pipelines.loaders.stream import StreamLoader
from pipelines.views import evaluation_views, pcm3pp_views
from shards.batch import Views
from shards.encoding import member_dtype
from shards.errors import ConfigError
from shards.manifest import Manifest, read_manifest
from shards.places import Place
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

Split = Literal["train", "test"]


@dataclass(frozen=True)
class PretrainViews:
    """`shards.batch.EpochViews` of a pre-training run: the loader's batches, seen as the method sees them."""

    loader: Loader
    config: PretrainConfig

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        for step, batch in enumerate(self.loader.epoch(epoch, first_step), first_step):
            yield pcm3pp_views(
                batch,
                self.config.views,
                stream=self.config.data.stream,
                seed=self.config.train.seed,
                epoch=epoch,
                step=step,
            )


@dataclass(frozen=True)
class EvaluationViews:
    """`shards.batch.EpochViews` of a downstream task: one view "x" a sample, by the task's crop."""

    loader: Loader
    crop: Literal["centre", "random", "full"]
    stream: Literal["joint", "bone", "motion"]
    frames: int
    seed: int = 0

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        for batch in self.loader.epoch(epoch, first_step):
            yield evaluation_views(
                batch, crop=self.crop, stream=self.stream, frames=self.frames, seed=self.seed, epoch=epoch
            )


def pick_device(name: str) -> torch.device:
    """The named device; "auto" is the GPU where there is one. ConfigError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name!r}: {error}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: found {torch.cuda.device_count()} CUDA devices, expected that one")
    return device


def open_loader(
    folder: Place,
    data: DataConfig,
    split: Split,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    shuffle: bool = True,
    drop_last: bool = True,
) -> Loader:
    """The loader of one side of a protocol; `data.loader` "auto" takes the resident one when the split fits."""
    kind = pick_loader(read_manifest(folder), data, split, device)
    engine = ResidentLoader if kind == "resident" else StreamLoader
    return engine(
        folder,
        data.dataset,
        data.protocol,
        split,
        batch_size=batch_size,
        seed=seed,
        device=device,
        shuffle=shuffle,
        drop_last=drop_last,
    )


def open_evaluation(
    folder: Place,
    config: PretrainConfig,
    split: Split,
    crop: Literal["centre", "random"],
    *,
    batch_size: int,
    device: torch.device,
    shuffle: bool = False,
) -> EvaluationViews:
    """One side as a downstream task of a run sees it: every sample, in the run's stream and length of view."""
    seed = config.train.seed
    loader = open_loader(
        folder, config.data, split, batch_size=batch_size, seed=seed, device=device, shuffle=shuffle, drop_last=False
    )
    return EvaluationViews(loader, crop, config.data.stream, config.views.frames, seed)


def pick_loader(manifest: Manifest, data: DataConfig, split: Split, device: torch.device) -> LoaderKind:
    """ "resident" when the split's frames take at most a quarter of the device's memory, else "stream"."""
    if data.loader != "auto":
        return data.loader
    name = f"{data.dataset}/{data.protocol}"
    frames = sum(cell.frames for cell in manifest.cells.values() if cell.memberships.get(name) == split)
    needed = frames * NUM_PERSONS * NUM_JOINTS * NUM_COORDINATES * member_dtype(manifest.dtype).itemsize
    return "resident" if needed <= _memory(device) // 4 else "stream"


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def build_objective(config: PretrainConfig) -> PCM3PP:
    """The objective with the parameters its seed gives."""
    return PCM3PP(config.objective, seed=config.train.seed)


def build_encoder(config: PretrainConfig, state: dict[str, torch.Tensor] | None) -> GRUEncoder:
    """The encoder with these parameters; with None, as the run began: randomly initialised from the run's seed."""
    if state is None:
        return build_objective(config).encoder
    encoder = GRUEncoder(config.objective.encoder)
    encoder.load_state_dict(state)
    return encoder
