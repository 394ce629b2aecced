"""Plans for which disk or memory is short are refused before anything begins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import evaluate
from flows.config import DataConfig, PretrainConfig, change_values, read_config
from flows.machine import room as guard
from flows.machine.room import check_evaluate, check_preprocess, check_pretrain, kept_checkpoints, model_bytes
from flows.options import EvaluateOptions, LoaderOptions, PretrainOptions
from flows.pretrain import open_mixture, pretrain, resolve
from flows.recipes import recipe
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.schedule import Stage, TrainConfig
from pipelines.loaders.split import Split
from shards.errors import ShortageError

CPU = torch.device("cpu")
LOADER = LoaderOptions()
DATA = DataConfig(dataset="ntu60", protocol="xview")


@pytest.fixture
def config(run: Path) -> PretrainConfig:
    return read_config(run / "config.json")


@pytest.fixture
def split(store: Path, config: PretrainConfig) -> Split:
    return open_mixture([store], config)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what is free."""

    def set_room(disk: float = 1e15, memory: float = 1e15) -> None:
        monkeypatch.setattr(guard, "free_disk", lambda folder: int(disk))
        monkeypatch.setattr(guard, "free_memory", lambda device: int(memory))

    return set_room


def tensor_bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def test_bytes_of_a_model_are_those_of_its_checkpoint(run: Path, config: PretrainConfig) -> None:
    path = latest_checkpoint(run)
    assert path is not None
    saved = load_checkpoint(path)
    found = model_bytes(config)
    assert found.state == tensor_bytes(saved.objective.values())
    assert found.trained == tensor_bytes(saved.optimizer.values())
    assert found.checkpoint < path.stat().st_size
    assert found.encoder == tensor_bytes(t for name, t in saved.objective.items() if name.startswith("encoders."))


def test_a_model_of_full_size_takes_no_memory_to_be_measured() -> None:
    assert model_bytes(recipe("pcm3pp", DATA)).checkpoint == pytest.approx(0.638e9, rel=0.01)


def test_a_decoder_that_no_term_needs_has_no_momentum() -> None:
    needed = change_values(recipe("pcm3pp", DATA), {"objective.pairs": ("base", "masked"), "train.stages": ()})
    without = model_bytes(change_values(needed, {"objective.prediction_weight": 0.0}))
    assert without.trained < model_bytes(needed).trained
    assert without.state == model_bytes(needed).state


@pytest.mark.parametrize("method", ["pcm3+tiny", "mamp+tiny", "skeletonclr+tiny"])
def test_bytes_of_another_method_and_optimiser_are_those_of_its_checkpoint(
    options: Callable[..., PretrainOptions], tmp_path: Path, method: str
) -> None:
    streams = ("joint", "bone") if method == "skeletonclr+tiny" else ("joint",)
    asked = options(tmp_path / "run", "train.epochs=1", "train.optimizer.kind=adamw", method=method, streams=streams)
    saved = load_checkpoint(pretrain(asked).checkpoint)
    found = model_bytes(resolve(asked))
    assert found.state == tensor_bytes(saved.objective.values())
    # Adam counts the steps of each parameter besides
    moments = [tensor for name, tensor in saved.optimizer.items() if not name.endswith("/step")]
    assert found.moments * found.trained == tensor_bytes(moments)
    assert found.encoder == tensor_bytes(t for name, t in saved.objective.items() if name.startswith("encoders.joint."))


@pytest.mark.parametrize(
    "train",
    [
        TrainConfig(),
        TrainConfig(epochs=7, checkpoint_every=10, keep_checkpoints=3),
        TrainConfig(epochs=100, checkpoint_every=10, keep_checkpoints=2, keep_every=25),
        TrainConfig(epochs=100, checkpoint_every=7, keep_checkpoints=4, stages=(Stage(name="post", epochs=51),)),
    ],
)
def test_checkpoints_at_the_end_are_those_that_pruning_leaves(train: TrainConfig) -> None:
    there: list[int] = []
    for epoch in range(1, train.total_epochs + 1):
        if epoch % train.checkpoint_every == 0 or epoch == train.total_epochs or train.stays(epoch):
            there.append(epoch)
            there = [e for e in there[: -train.keep_checkpoints] if train.stays(e)] + there[-train.keep_checkpoints :]
    assert kept_checkpoints(train) == len(there)


def test_a_disk_must_take_the_checkpoints_and_one_in_writing(
    config: PretrainConfig, split: Split, tmp_path: Path, room: Callable[..., None]
) -> None:
    needed = (kept_checkpoints(config.train) + 1) * model_bytes(config).checkpoint
    room(disk=needed)
    check_pretrain(config, split, LOADER, tmp_path / "run", CPU)
    room(disk=needed - 1)
    with pytest.raises(ShortageError, match=r"run: found .* free on this disk, expected at least .* for 2 checkpoints"):
        check_pretrain(config, split, LOADER, tmp_path / "run", CPU)


def test_checkpoints_that_are_there_need_no_room(
    config: PretrainConfig, split: Split, run: Path, room: Callable[..., None]
) -> None:
    room(disk=model_bytes(config).checkpoint)
    check_pretrain(config, split, LOADER, run, CPU)


def test_memory_must_take_the_model_and_a_resident_split(
    config: PretrainConfig, split: Split, tmp_path: Path, room: Callable[..., None]
) -> None:
    frames = split.num_frames * 2 * 25 * 3 * 4
    needed = model_bytes(config).training + frames
    room(memory=needed)
    check_pretrain(config, split, LOADER, tmp_path, CPU)
    room(memory=needed - 1)
    with pytest.raises(
        ShortageError, match=r"memory of cpu: found .* for the frames of ntu60 xview train .*lower bound"
    ):
        check_pretrain(config, split, LOADER, tmp_path, CPU)
    check_pretrain(config, split, LoaderOptions(loader="stream"), tmp_path, CPU)


def test_ranks_on_the_cpu_share_its_memory(
    config: PretrainConfig, split: Split, tmp_path: Path, room: Callable[..., None]
) -> None:
    room(memory=2 * model_bytes(config).training)
    stream = LoaderOptions(loader="stream")
    check_pretrain(config, split, stream, tmp_path, CPU, ranks=2)
    with pytest.raises(ShortageError, match="3 times parameters"):
        check_pretrain(config, split, stream, tmp_path, CPU, ranks=3)


def test_memory_is_what_the_control_group_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, inner = tmp_path / "groups", tmp_path / "groups/slice/job"
    inner.mkdir(parents=True)
    for folder, limit, used, cached in ((inner, "max", 0, 0), (inner.parent, "5000", 4000, 500)):
        for name, text in {"max": limit, "current": used, "stat": f"anon 1\ninactive_file {cached}"}.items():
            (folder / f"memory.{name}").write_text(f"{text}\n")
    for name, text in {
        "self": "4:memory:/x\n0::/slice/job\n",
        "meminfo": "MemFree: 1 kB\nMemAvailable: 4 kB\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(guard, "_CGROUPS", groups)
    monkeypatch.setattr(guard, "_CGROUP", tmp_path / "self")
    monkeypatch.setattr(guard, "_MEMINFO", tmp_path / "meminfo")
    assert guard.free_memory(CPU) == 1500
    (inner.parent / "memory.max").write_text("max\n")
    assert guard.free_memory(CPU) == 4096


def test_room_for_features_is_needed_until_they_are_there(
    options: Callable[..., PretrainOptions], run: Path, tmp_path: Path, room: Callable[..., None]
) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.json", "run.json", "checkpoints"):
        (copy / name).symlink_to(run / name)
    request = EvaluateOptions(run=copy, tasks=("retrieval",), device="cpu")
    bench = evaluate.open_bench(request)
    samples = sum(bench.benchmark.split(side).num_samples for side in ("train", "test"))
    needed = 2 * samples * (2 * 8 * 4 + 16)  # two encoders of width 2 * 8
    room(disk=needed)
    check_evaluate(bench, ["retrieval"])
    room(disk=needed - 1)
    with pytest.raises(ShortageError, match="features of 4 sides"):
        check_evaluate(bench, ["retrieval"])
    check_evaluate(bench, ["finetune"])
    room(disk=needed)
    evaluate.evaluate(request)
    room(disk=0)
    check_evaluate(bench, ["retrieval"])


def test_memory_for_samples_whose_features_are_missing(run: Path, room: Callable[..., None]) -> None:
    bench = evaluate.open_bench(EvaluateOptions(run=run, device="cpu"))
    room(memory=1000)
    with pytest.raises(ShortageError, match=r"for the encoder, .* for the frames of ntu60 xview test"):
        check_evaluate(bench, ["linear"])


def test_a_conversion_needs_room_unless_it_is_done(
    raw: Path, store: Path, tmp_path: Path, room: Callable[..., None]
) -> None:
    kind = {"recipe": "pcm3", "dtype": "float32", "scratch": None}
    room(disk=1000)
    with pytest.raises(ShortageError, match=r"expected at least .* for a conversion of 48 recordings"):
        check_preprocess("ntu", [raw], tmp_path / "out", **kind)  # type: ignore[arg-type]
    check_preprocess("ntu", [raw], store.parent, **kind)  # type: ignore[arg-type]
    room()
    check_preprocess("ntu", [raw], tmp_path / "out", **kind)  # type: ignore[arg-type]


def test_what_is_free_is_told_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert guard.free_disk(tmp_path / "a" / "b") > 0
    assert guard.free_memory(CPU) > 0
