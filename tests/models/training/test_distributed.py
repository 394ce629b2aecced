"""Two ranks do what one does with the joint batch; what one of them meets, all are told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.training import distributed
from models.training.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from models.training.runlog import LOG, TIME_FIELDS
from shards.errors import ConfigError
from shards.trees import flatten
from tests.patience import PATIENCE
from tests.ports import free_port

STEPS, BATCH = 5, 4

# A process that trains once by itself, and then forks the ranks of each scenario; they meet over a file, on loopback.
PROGRAM = """
import json, os, resource, signal, sys, traceback
from dataclasses import replace
from pathlib import Path
import torch
import torch.distributed as dist
import tensorboard.summary.writer.record_writer
from models.collectives import rank, world_size
from models.encoders.gru import GRUConfig
from models.objectives.pcm3pp import PCM3PP, PCM3PPConfig
from models.training.distributed import check_agreement, exchange, leader_first, process_group, run_together
from models.training.engine import train
from models.training.optimizers import AdamWConfig
from models.training.schedule import Stage, TrainConfig
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError

out = Path(sys.argv[1])
NAMES = ("base", "key", "target", "mix", "clip")


def rows(x):
    return x.chunk(world_size())[rank()]


class Slices:
    '''This rank's rows of random global batches; `before` is called with (epoch, step) before each is given out.'''

    def __init__(self, before=lambda epoch, step: None):
        self.before = before

    def __len__(self):
        return 5

    def epoch(self, epoch, first_step=0):
        for step in range(first_step, 5):
            self.before(epoch, step)
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            views = {name: torch.randn(4, 5, 6, dtype=torch.float64, generator=generator) for name in NAMES}
            mask = torch.rand(4, 5, 6, generator=generator) < 0.5
            views["masked"] = views["target"] * mask
            yield Views(
                views={name: rows(view) for name, view in views.items()},
                label=rows(torch.zeros(4, dtype=torch.int64)),
                sample_id=rows(torch.arange(4) + 10 * step),
                masks={"masked": rows(mask)},
                mix_partner=rows(torch.arange(4).roll(1)),
                mix_weight=rows(torch.rand(4, dtype=torch.float64, generator=generator)),
            )


class NanOnTheLastRank(PCM3PP):
    def forward(self, views, draws):
        outcome = super().forward(views, draws)
        factor = float("nan") if rank() == 1 and int(views.sample_id[0]) // 10 == 3 else 1.0
        return replace(outcome, terms={name: factor * term for name, term in outcome.terms.items()})


class Shifted(PCM3PP):
    '''Its views are shifted, by what rank 0 alone computes of the whole split between epochs.'''

    def __init__(self, config, seed):
        super().__init__(config, seed)
        self.register_buffer("shift", torch.full((6,), float(rank())))

    def begin_epoch(self, progress, split):
        assert rank() == 0, "the split is for rank 0 alone"
        self.eval()
        rows = torch.cat([views.views["x"].flatten(0, 1) for views in split()])
        self.shift.mul_(0.5).add_(rows.mean(0) + progress.epoch)

    def forward(self, views, draws):
        moved = {name: view + self.shift for name, view in views.views.items()}
        return super().forward(replace(views, views=moved), draws)


def split():
    for number in range(2):
        x = torch.randn(3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        yield Views({"x": x}, torch.zeros(3, dtype=torch.int64), torch.arange(3))


def post(term):
    return (Stage(name="post", epochs=1, lr=0.05, terms=(term,)),)


def fit(run, before=lambda epoch, step: None, kind=PCM3PP, objective={}, resume=False, meta="f", probe=None, **more):
    small = {"encoder": GRUConfig(input_size=6, hidden=8), "queue_size": 16, "feature_dim": 5}
    config = {
        "epochs": 2, "batch_size": 4, "lr": 0.1, "milestones": (1,), "checkpoint_every": 1, "log_every": 2,
        "stages": post("distill"), "explosion": 0, "seed": 3,
    }
    # each rank begins with other parameters: those of rank 0 count
    model = kind(PCM3PPConfig(**small | objective), seed=rank()).double()
    return train(
        model, Slices(before), TrainConfig(**config | more), out / run, meta={"fingerprint": meta}, resume=resume,
        probe=probe, split=split,
    )


BASE = {"pairs": ("base",), "prediction_weight": 0.0}
ADAMW = {"optimizer": AdamWConfig(layer_decay=0.5), "lr": 0.01, "clip": 0.5, "epochs": 5, "stages": ()}
ADAMW |= {"schedule": "plateau", "patience": 1}


def terminated(whose):
    def before(epoch, step):
        if (epoch, step) == (1, 2) and rank() in whose:
            signal.raise_signal(signal.SIGTERM)
    return before


def full():
    def before(epoch, step):
        if (epoch, step) == (1, 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000) if rank() == 0 else (-1, -1))
    return before


def broken(epoch, step):
    if (epoch, step) == (0, 2) and rank() == 1:
        raise RuntimeError("the loader of rank 1 is broken")


def probe(encoders):
    assert rank() == 0, "the probe is for rank 0 alone"
    encoder = encoders["joint"].eval()
    return {"norm": encoder.input_norm.running_mean.norm().item()}


def fails_on_one():
    if rank() == 1:
        raise CheckpointError("the file of rank 1 is gone")


def exchanged():
    values = exchange({"rank": rank(), "text": "\\u00e9" * (3 * rank())})
    told = leader_first(lambda: ["of rank", rank()])
    return [values, told, run_together(lambda: rank())]


def in_group():
    with process_group(torch.device("cpu")) as device:
        return [str(device), rank(), world_size(), exchange(rank())]


SCENARIOS = {
    "whole_2": (2, lambda: fit("whole_2")),
    "unused_1": (1, lambda: fit("unused_1", objective=BASE)),
    "unused_2": (2, lambda: fit("unused_2", objective=BASE)),
    "stop_2": (2, lambda: fit("from_2_to_1", before=terminated([1]))),
    "go_on_1": (1, lambda: fit("from_2_to_1", resume=True)),
    "stop_1": (1, lambda: fit("from_1_to_4", before=terminated([0]))),
    "go_on_4": (4, lambda: fit("from_1_to_4", resume=True)),
    "again_2": (2, lambda: fit("from_2_to_2", before=terminated([0, 1]))),
    "go_on_2": (2, lambda: fit("from_2_to_2", resume=True)),
    "finished_2": (2, lambda: fit("from_2_to_2", resume=True)),
    "without_resume": (2, lambda: fit("from_2_to_2")),
    "config": (2, lambda: fit("config", lr=0.1 + rank())),
    "data": (2, lambda: fit("data", meta=f"data{rank()}")),
    "resume": (2, lambda: fit("resume", resume=rank() == 1)),
    "uneven": (3, lambda: fit("uneven")),
    "terms": (2, lambda: fit("terms", stages=post("twist"))),
    "nan": (2, lambda: fit("nan", kind=NanOnTheLastRank)),
    "full": (2, lambda: fit("full", before=full())),
    "broken": (2, lambda: fit("broken", before=broken)),
    "probe": (2, lambda: fit("probe", probe=probe if rank() == 0 else None, probe_every=2)),
    "epochs_1": (1, lambda: fit("epochs_1", kind=Shifted)),
    "epochs_2": (2, lambda: fit("epochs_2", kind=Shifted)),
    "stop_epochs": (2, lambda: fit("epochs_parts", kind=Shifted, before=terminated([0]))),
    "go_on_epochs": (2, lambda: fit("epochs_parts", kind=Shifted, resume=True)),
    "adamw_1": (1, lambda: fit("adamw_1", **ADAMW)),
    "adamw_2": (2, lambda: fit("adamw_2", **ADAMW)),
    "together": (2, lambda: run_together(fails_on_one)),
    "exchange": (2, exchanged),
    "agree": (2, lambda: check_agreement({"same": [1], "nested": {"inner": {"one": 1, "rank": rank()}}})),
}


def describe(result):
    return {"epochs": result.epochs, "steps": result.steps, "checkpoint": result.checkpoint.name,
            "curves": [line["loss"] for line in result.curves]} if hasattr(result, "curves") else result


def rank_main(name, number, world, action):
    try:
        told = {"result": describe(action())}
    except BaseException as error:
        told = {"error": type(error).__name__, "text": str(error)}
    (out / f"{name}.{number}.json").write_text(json.dumps(told))
    if world_size() > 1:
        dist.destroy_process_group()


def joined(name, number, world, action):
    if world > 1:
        store = f"file://{out}/{name}.store"
        dist.init_process_group("gloo", init_method=store, rank=number, world_size=world)
    rank_main(name, number, world, action)


def launched(name, number, world, action):
    names = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ |= {key: str(value) for key, value in names.items()}
    rank_main(name, number, world, action)


def fork(entry, name, world, action):
    children = []
    for number in range(world):
        child = os.fork()
        if child == 0:
            entry(name, number, world, action)
            os._exit(0)
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    (out / f"{name}.ends.json").write_text(json.dumps(ends))


rank_main("whole_1", 0, 1, lambda: fit("whole_1"))
for name, (world, action) in SCENARIOS.items():
    fork(joined, name, world, action)
fork(launched, "group", 2, in_group)
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the ranks of all scenarios left: runs, and SCENARIO.RANK.json."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "program.py").write_text(PROGRAM)
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "OMP_NUM_THREADS": "1"}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    process = subprocess.run(
        [sys.executable, "-W", "error", str(folder / "program.py"), str(folder)],
        env=os.environ | environment, capture_output=True, text=True, timeout=3 * PATIENCE,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    (folder / "stderr.txt").write_text(process.stderr)
    return folder


def told(out: Path, scenario: str) -> list[dict[str, Any]]:
    """What each rank of a scenario has to say."""
    return [json.loads(path.read_text()) for path in sorted(out.glob(f"{scenario}.[0-9].json"))]


def errors(out: Path, scenario: str) -> set[tuple[str, str]]:
    """Error and text of the ranks, which all failed."""
    return {(each["error"], each["text"]) for each in told(out, scenario)}


def last(run: Path) -> Checkpoint:
    path = latest_checkpoint(run)
    assert path is not None
    return load_checkpoint(path)


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / LOG).read_text().splitlines()]


def assert_close(left: Path, right: Path) -> None:
    """Parameters, twins, queue, statistics, momentum and log of two runs are equal within 1e-9."""
    a, b = last(left), last(right)
    assert (a.epoch, a.step, a.config, a.meta) == (b.epoch, b.step, b.config, b.meta)
    for ours, theirs in ((a.objective, b.objective), (a.optimizer, b.optimizer)):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], atol=1e-9, rtol=1e-9, msg=name)
    for one, other in zip(log(left), log(right), strict=True):
        ours, theirs = ({k: v for k, v in flatten(line).items() if k not in TIME_FIELDS} for line in (one, other))
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_two_ranks_train_as_one_with_the_joint_batch(out: Path) -> None:
    assert_close(out / "whole_1", out / "whole_2")
    state = last(out / "whole_2")
    assert not any(name.startswith("module.") for name in [*state.objective, *state.optimizer])
    assert state.objective["queue.keys"].dtype == torch.float64
    assert told(out, "whole_2")[0] == told(out, "whole_2")[1]
    assert told(out, "whole_2")[0]["result"]["checkpoint"] == "epoch_0003.pt"


def test_parameters_without_gradient_are_left_alone_on_two_ranks_as_on_one(out: Path) -> None:
    assert_close(out / "unused_1", out / "unused_2")
    state = last(out / "unused_2")
    assert not any(name.startswith("decoder.") for name in state.optimizer), "weight decay would have moved it"


def test_what_rank_0_computes_between_epochs_reaches_all(out: Path) -> None:
    assert_close(out / "epochs_1", out / "epochs_2")
    states = [last(out / run).objective for run in ("epochs_2", "whole_2")]
    assert not torch.equal(states[0]["projector.layers.0.weight"], states[1]["projector.layers.0.weight"])


def test_a_run_stopped_within_an_epoch_goes_on_with_what_was_computed_before_it(out: Path) -> None:
    assert_close(out / "epochs_1", out / "epochs_parts")
    assert json.loads((out / "stop_epochs.ends.json").read_text()) == [-15, -15]


def test_clipping_groups_and_plateaus_are_those_of_the_joint_batch(out: Path) -> None:
    assert_close(out / "adamw_1", out / "adamw_2")
    assert len({line["lr"] for line in log(out / "adamw_2")}) > 1


@pytest.mark.parametrize("run", ["from_2_to_1", "from_1_to_4", "from_2_to_2"])
def test_a_run_goes_on_with_another_number_of_ranks(out: Path, run: str) -> None:
    assert_close(out / "whole_1", out / run)


def test_a_signal_to_one_rank_stops_all_at_the_same_step_with_a_checkpoint(out: Path) -> None:
    for scenario, world in (("stop_2", 2), ("again_2", 2), ("stop_1", 1)):
        assert json.loads((out / f"{scenario}.ends.json").read_text()) == [-15] * world, scenario
        assert told(out, scenario) == []
    assert told(out, "go_on_1")[0]["result"]["epochs"] == 3


def test_a_finished_run_has_one_result_on_all_ranks(out: Path) -> None:
    first, second = told(out, "finished_2")
    assert first == second == told(out, "go_on_2")[0]


@pytest.mark.parametrize(
    ("scenario", "error", "text"),
    [
        ("config", "ConfigError", "rank 1: found train.lr 1.1, expected 0.1 as on rank 0"),
        ("data", "ConfigError", "rank 1: found meta.fingerprint data1, expected data0 as on rank 0"),
        ("resume", "ConfigError", "rank 1: found resume True, expected False as on rank 0"),
        ("agree", "ConfigError", "rank 1: found nested.inner.rank 1, expected 0 as on rank 0"),
        ("uneven", "ConfigError", "found batch_size 4, expected a multiple of the 3 ranks"),
        ("together", "CheckpointError", "the file of rank 1 is gone"),
    ],
)
def test_what_is_wrong_is_one_error_on_all_ranks(out: Path, scenario: str, error: str, text: str) -> None:
    assert errors(out, scenario) == {(error, text)}
    assert not (out / scenario).exists()


def test_a_run_in_the_folder_is_refused_on_all_ranks(out: Path) -> None:
    ((error, text),) = errors(out, "without_resume")
    assert error == "ConfigError"
    assert "found a run, expected a new folder" in text


def test_unknown_terms_of_the_post_stage_are_refused_on_all_ranks(out: Path) -> None:
    ((error, text),) = errors(out, "terms")
    assert (error, text.partition(",")[0]) == ("ConfigError", "found stages of the terms ['twist']")


def test_a_loss_that_is_no_number_on_one_rank_stops_all_with_the_samples_of_that_rank(out: Path) -> None:
    ((error, text),) = errors(out, "nan")
    assert error == "DivergenceError"
    assert "epoch 0, step 3 of 5" in text
    assert "samples [32, 33]" in text


def test_a_full_disk_of_rank_0_stops_all_and_the_checkpoint_before_stays(out: Path) -> None:
    ((error, text),) = errors(out, "full")
    assert error == "CheckpointError"
    assert "found no space left" in text
    assert last(out / "full").epoch == 1


def test_a_rank_that_fails_alone_leaves_none_waiting(out: Path) -> None:
    first, second = told(out, "broken")
    assert second == {"error": "RuntimeError", "text": "the loader of rank 1 is broken"}
    assert "error" in first


def test_the_probe_runs_on_rank_0_and_changes_nothing(out: Path) -> None:
    assert [line["epoch"] for line in log(out / "probe") if "probe" in line] == [1, 2]
    for name, tensor in last(out / "probe").objective.items():
        assert torch.equal(tensor, last(out / "whole_2").objective[name])


def test_ranks_exchange_values_of_any_length(out: Path) -> None:
    both = [{"rank": 0, "text": ""}, {"rank": 1, "text": "ééé"}]
    assert [each["result"] for each in told(out, "exchange")] == [[both, ["of rank", 0], number] for number in (0, 1)]


def test_a_group_is_made_of_the_environment_that_torchrun_sets(out: Path) -> None:
    assert [each["result"] for each in told(out, "group")] == [["cpu", number, 2, [0, 1]] for number in (0, 1)]


def test_training_on_ranks_prints_no_warnings(out: Path) -> None:
    assert "Warning" not in (out / "stderr.txt").read_text()


ENVIRONMENT = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
ENVIRONMENT |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": None, "WORLD_SIZE": None}, "found RANK without WORLD_SIZE, MASTER_ADDR"),
        ({"LOCAL_RANK": "first"}, "found LOCAL_RANK='first' in the environment, expected a number"),
        ({"RANK": "2"}, "found RANK=2 in the environment, expected below WORLD_SIZE=2"),
        ({"LOCAL_RANK": "2"}, "found LOCAL_RANK=2 in the environment, expected below LOCAL_WORLD_SIZE=2"),
    ],
)
def test_half_an_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], message: str
) -> None:
    for name, value in (ENVIRONMENT | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message), distributed.process_group(torch.device("cpu")):
        pass


def test_more_ranks_than_cuda_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ConfigError, match="found 1 CUDA devices for 2 ranks on this node"),
        distributed.process_group(torch.device("cuda")),
    ):
        pass


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with distributed.process_group(torch.device("cpu")) as device:
        assert device == torch.device("cpu")
    module = nn.Linear(1, 1)
    assert distributed.parallel(module) is module
    assert distributed.exchange({"a": 1}) == [{"a": 1}]
    assert distributed.leader_first(lambda: (1, 2)) == (1, 2)
    distributed.check_agreement({"a": 1})
