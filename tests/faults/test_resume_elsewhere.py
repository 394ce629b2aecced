"""A training is killed in mid-epoch; other loaders and other numbers of ranks go on with the same samples and views."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from flows.build import open_views
from flows.config import read_config
from flows.options import LoaderOptions
from flows.pretrain import open_mixture, read_run
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.runlog import LOG
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from shards.batch import Views
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}

SETTINGS = {
    "objective.queue_size": 36,
    "train.batch_size": 12,
    "train.epochs": 400,
    "data.window": 2,
}

# one rank, as a process of its own: RUN LOADER RANK WORLD EPOCH STEP OUT
RANK = """
import sys
from pathlib import Path
import torch
from tests_resume import rank_views

run, loader, rank, world, epoch, step, out = sys.argv[1:]
torch.set_num_threads(1)
found = rank_views(Path(run), loader, int(rank), int(world), int(epoch), int(step))
torch.save([{"ids": v.sample_id, **v.views} for v in found], out)
"""


def rank_views(run: Path, loader: str, rank: int, world: int, epoch: int, step: int) -> list[Views]:
    """What a rank sees from a step of `epoch` to the end of the next one."""
    config, record = read_config(run / "config.json"), read_run(run)
    views = open_views(
        open_mixture([Path(record.store)], config),
        config.views.spec(config.data.streams),
        LoaderOptions.model_validate({"loader": loader, "workers": rank % 3}),
        window=config.data.window,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        device=torch.device("cpu"),
        rank=rank,
        world=world,
    )
    try:
        return [*views.epoch(epoch, step), *views.epoch(epoch + 1)]
    finally:
        views.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    raw = synthesize("ntu", folder / "raw", subjects=4, classes=4, samples=160, seed=0, zipped=False)
    convert("ntu", [raw], folder / "data", workers=0, samples_per_shard=8)
    return folder / "data"


def train(data: Path, run: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "skelstream", "pretrain", "pcm3pp+tiny+no-post", "--plain", "--resume"]
    words += [
        "--device",
        "cpu",
        "--data",
        str(data),
        "--dataset",
        "ntu60",
        "--protocol",
        "xview",
        "--loader",
        "resident",
    ]
    words += ["--run", str(run), *(word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}"))]
    return subprocess.Popen(words, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def interrupt(data: Path, run: Path, number: int, epochs: int) -> None:
    """Train until the log has so many epochs, then send the signal."""
    process = train(data, run)
    while not (run / LOG).exists() or (run / LOG).read_text().count('"kind": "epoch"') < epochs:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0


def ranks_from(run: Path, loader: str, world: int, epoch: int, step: int, out: Path) -> list[dict[str, torch.Tensor]]:
    """The global batches as `world` processes see them together, from a step on."""
    program = out / "rank.py"
    program.write_text(RANK)
    (out / "tests_resume.py").write_text(Path(__file__).read_text())
    files = [out / f"{loader}-{rank}-of-{world}.pt" for rank in range(world)]
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join((str(out), str(ROOT)))}
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), str(run), loader, str(rank), str(world), str(epoch), str(step), str(file)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    ranks = [torch.load(file, weights_only=True) for file in files]
    return [
        {name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in zip(*ranks, strict=True)
    ]


def test_killed_twice_the_samples_and_views_that_follow_are_those_of_the_undisturbed_run(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    interrupt(data, run, signal.SIGTERM, 2)
    first = latest_checkpoint(run)
    assert first is not None
    interrupt(data, run, signal.SIGTERM, 5)
    path = latest_checkpoint(run)
    assert path is not None
    assert path != first
    checkpoint = load_checkpoint(path)
    epoch, step = checkpoint.epoch, checkpoint.first_step
    whole = rank_views(run, "resident", 0, 1, epoch, 0)[step:]
    assert len(whole) == 2 * checkpoint.epoch_steps - step
    for loader, world in (("stream", 1), ("stream", 3), ("resident", 2), ("dali", 2)):
        found = ranks_from(run, loader, world, epoch, step, tmp_path)
        assert len(found) == len(whole)
        for ours, theirs in zip(found, whole, strict=True):
            assert ours["ids"].tolist() == theirs.sample_id.tolist()
            for name, x in theirs.views.items():
                torch.testing.assert_close(ours[name], x, rtol=0, atol=1e-5, msg=f"{loader} {world}: {name}")
