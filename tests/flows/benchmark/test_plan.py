"""The plan of a benchmark: what is there, what is missing, and every error that can be known before anything runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.benchmark.config import BenchmarkConfig
from flows.benchmark.plan import plan
from flows.benchmark.text import plan_text
from flows.evaluate import evaluate
from flows.options import EvaluateOptions
from models.training.runlog import LOG
from shards.errors import ConfigError, SkelstreamError, StoreError
from tests.flows.benchmark.conftest import OTHER
from tests.flows.conftest import METHOD

Make = Callable[..., BenchmarkConfig]


def tree(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_nothing_there_is_all_missing_and_nothing_is_written(benchmark: Make, tmp_path: Path) -> None:
    config = benchmark(seeds=[0, 1])
    before = tree(tmp_path)
    found = plan(config, "once")
    assert [(p.trained, p.reused, p.epochs, p.tasks, p.missing, p.seconds) for p in found.cells] == [
        (False, False, 0, ("retrieval",), ("retrieval",), None)
    ] * 2
    assert len({p.run for p in found.cells}) == 2
    assert not found.complete
    assert tree(tmp_path) == before
    text = plan_text(found).splitlines()
    assert text[0] == "tiny, round once: 2 cells"
    assert text[2].split("  ") == [
        f"{METHOD} ntu60/xview joint seed 0",
        "missing, 2 epochs",
        "retrieval missing",
        "not known",
    ]
    assert text[-1] == "missing: 2 cells without an estimate"


def test_a_run_of_the_same_identity_is_reused_under_its_own_name(benchmark: Make, own: Path) -> None:
    config = benchmark()
    (planned,) = plan(config, "once").cells
    assert (planned.run, planned.reused, planned.trained) == (own, True, True)
    assert planned.missing == ("retrieval",)
    assert f"reuses {own}" in plan_text(plan(config, "once"))
    evaluate(EvaluateOptions(run=own, tasks=("retrieval",), device="cpu"))
    done = plan(config, "once")
    assert done.complete
    assert plan_text(done).endswith("nothing is missing")


def test_scores_by_other_options_do_not_count(benchmark: Make, own: Path) -> None:
    evaluate(EvaluateOptions(run=own, tasks=("retrieval",), device="cpu"))
    (planned,) = plan(benchmark(evaluate={"retrieval.metric": "euclidean"}), "once").cells
    assert planned.missing == ("retrieval",)


def test_a_round_by_date_reuses_no_run_but_its_own(benchmark: Make, own: Path) -> None:
    config = benchmark(round="date")
    (planned,) = plan(config, "2030-01-01").cells
    assert not planned.trained
    shutil.copytree(own, planned.run)
    assert plan(config, "2030-01-01").cells[0].trained
    assert not plan(config, "2030-01-02").cells[0].trained


def test_a_run_under_way_goes_on_at_its_last_checkpoint(benchmark: Make, run: Path) -> None:
    config = benchmark()
    (planned,) = plan(config, "once").cells
    shutil.copytree(run, planned.run)
    (planned.run / "checkpoints" / "epoch_0002.pt").unlink()
    found = plan(config, "once")
    assert (found.cells[0].epochs, found.cells[0].trained, found.cells[0].reused) == (1, False, False)
    assert "goes on at epoch 1 of 2" in plan_text(found)


def test_a_cell_is_estimated_by_those_that_differ_in_the_seed_alone(benchmark: Make, own: Path) -> None:
    rows = evaluate(EvaluateOptions(run=own, tasks=("retrieval",), device="cpu"))
    lines = [json.loads(line) for line in (own / LOG).read_text().splitlines()]
    epochs = [line["seconds"] for line in lines if line["kind"] == "epoch"]
    config = benchmark(seeds=[0, 1], methods=[METHOD, OTHER])
    by_cell = {(p.cell.method, p.cell.seed): p.seconds for p in plan(config, "once").cells}
    assert by_cell[METHOD, 0] == 0
    assert by_cell[METHOD, 1] == pytest.approx(sum(epochs) + sum(row.seconds for row in rows))
    assert by_cell[OTHER, 0] is by_cell[OTHER, 1] is None


def test_the_same_cell_of_two_benchmarks_is_one_run(benchmark: Make) -> None:
    (one,) = plan(benchmark(name="one"), "once").cells
    (two, _) = plan(benchmark(name="two", methods=[METHOD, OTHER], tasks=["linear"]), "once").cells
    (other,) = plan(benchmark(name="one", pretrain={"train.lr": 0.5}), "once").cells
    assert one.run == two.run != other.run


def test_a_cells_folder_that_was_trained_on_by_hand_is_not_overwritten(benchmark: Make, run: Path) -> None:
    config = benchmark()
    (planned,) = plan(config, "once").cells
    shutil.copytree(run, planned.run)
    path = planned.run / "config.json"
    path.write_text(path.read_text().replace('"epochs": 2', '"epochs": 3'))
    with pytest.raises(ConfigError, match=r"another configuration: train\.epochs is 3 there and 2 here; move it away"):
        plan(config, "once")


def test_all_tasks_are_those_that_the_data_allow(benchmark: Make, own: Path) -> None:
    (planned,) = plan(benchmark(tasks=["all"]), "once").cells
    assert {"linear", "retrieval", "finetune", "robustness"} <= set(planned.tasks)
    assert {"fusion", "semi", "transfer"} <= planned.left_out.keys()
    assert not set(planned.tasks) & planned.left_out.keys()
    assert "left out of ntu60/xview joint: fusion: " in plan_text(plan(benchmark(tasks=["all"]), "once"))


def test_fusion_is_scored_of_the_joint_stream_with_the_runs_of_the_same_seed(benchmark: Make) -> None:
    config = benchmark(streams=["joint", "bone", "motion"], seeds=[0, 1], tasks=["fusion", "linear"])
    found = {(p.cell.stream, p.cell.seed): p for p in plan(config, "once").cells}
    for seed in (0, 1):
        joint = found["joint", seed]
        assert joint.tasks == ("linear", "fusion")
        assert joint.streams == {name: found[name, seed].run for name in ("bone", "motion")}
        assert found["bone", seed].tasks == found["motion", seed].tasks == ("linear",)


def test_a_store_that_is_to_be_made_lets_its_cells_wait(benchmark: Make, raw: Path, tmp_path: Path) -> None:
    config = benchmark(data=str(tmp_path / "data"), preprocess=[{"source": "ntu", "raw": [str(raw)]}])
    found = plan(config, "once")
    assert (found.cells, len(found.waiting), found.stores) == ((), 1, {"ntu": None})
    assert not found.complete
    assert plan_text(found).splitlines()[1:3] == [
        "store of ntu: is made first",
        f"{METHOD} ntu60/xview joint seed 0: waits for its store",
    ]


def test_a_store_that_is_there_is_the_one_that_preprocess_names(
    benchmark: Make, raw: Path, store: Path, other_store: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for folder in (store, other_store):
        shutil.copytree(folder, data / folder.name)
    with pytest.raises(StoreError, match="found 2 stores"):
        plan(benchmark(data=str(data)), "once")
    found = plan(benchmark(data=str(data), preprocess=[{"source": "ntu", "raw": [str(raw)]}]), "once")
    assert [p.store for p in found.cells] == [data / store.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["pcm4"]}, "pcm4 ntu60/xview joint seed 0: unknown method 'pcm4', expected one of .*pcm3pp"),
        ({"methods": ["pcm3pp+no-clips"]}, "unknown variant 'no-clips' of pcm3pp"),
        ({"pretrain": {"train.epoch": 3}}, "no-post ntu60/xview joint seed 0: .*'train.epoch'; nearest: train.epochs"),
        ({"pretrain": {"train.epochs": "many"}}, "train.epochs: found 'many'"),
        ({"pretrain": {"objective.queue_size": 8}}, "objective.queue_size is 8, expected more than train.batch"),
        ({"evaluate": {"linear.epoch": 3}}, "seed 0: .*unknown key 'linear.epoch'; nearest: linear.epochs"),
        ({"special": [{"evaluate": {"liner": {"epochs": 3}}}]}, "unknown key 'liner.epochs'; nearest: linear.epochs"),
        ({"tasks": ["transfer"]}, "seed 0: task transfer: .*pkummd2"),
        ({"tasks": ["few_shot"], "evaluate": {"few_shot.ways": 50}}, "task few_shot: "),
        ({"device": "cuda:7"}, "--device cuda:7: found .* CUDA devices"),
        ({"gpus": 3, "device": "cpu"}, "--gpus 3: train.batch_size is 8, expected a multiple of 3"),
        ({"data": "nowhere"}, "nowhere: found no such folder"),
        ({"datasets": ["nwucla/xview"]}, "found ntu-pcm3-.*, expected a finished store of source nwucla"),
        ({"preprocess": [{"source": "nwucla", "raw": ["a"]}]}, r"preprocess\[0\]: found nwucla, expected a source of"),
        ({"preprocess": [{"source": "ntu", "raw": ["absent.zip"]}]}, "absent.zip"),
    ],
)
def test_what_can_be_known_is_told_before_anything_runs(
    benchmark: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = benchmark(**changes)
    with pytest.raises(SkelstreamError, match=message):
        plan(config, "once")
    assert not (tmp_path / "runs").exists()
