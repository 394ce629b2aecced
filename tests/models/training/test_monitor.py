import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.training.monitor import LOG, DivergenceError, Monitor, read_log, truncate_log
from shards.batch import Views
from shards.errors import CheckpointError


def monitor(run: Path, **options: Any) -> Monitor:
    run.mkdir(exist_ok=True)
    defaults: dict[str, Any] = {
        "epoch_steps": 5,
        "epochs": 3,
        "step": 0,
        "terms": torch.zeros(0, 0, dtype=torch.float64),
        "term_names": (),
        "log_every": 2,
        "progress": False,
    }
    return Monitor(run, **(defaults | options))


def batch(*ids: int) -> Views:
    sample_id = torch.tensor(ids or (0, 1))
    return Views({}, torch.zeros_like(sample_id), sample_id)


def terms(a: float, b: float) -> dict[str, torch.Tensor]:
    return {"a": torch.tensor(a), "b": torch.tensor(b)}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / LOG).read_text().splitlines()]


def test_lines_hold_the_means_of_their_steps(tmp_path: Path) -> None:
    with monitor(tmp_path) as watch:
        watch.start_epoch()
        for value in (1.0, 2.0, 3.0, 4.0, 5.0):
            watch.record(terms(value, 10 * value), batch(), lr=0.1)
        watch.end_epoch(0, 0.1, {"retrieval": 0.5})
    assert [(line["kind"], line["epoch"], line["step"]) for line in lines(tmp_path)] == [
        ("step", 0, 2),
        ("step", 0, 4),
        ("epoch", 0, 5),
    ]
    assert [line["terms"] for line in lines(tmp_path)] == [{"a": a, "b": 10 * a} for a in (1.5, 3.5, 3.0)]
    assert [line["loss"] for line in lines(tmp_path)] == [16.5, 38.5, 33.0]
    assert lines(tmp_path)[-1]["probe"] == {"retrieval": 0.5}
    assert all(line["samples_per_second"] > 0 for line in lines(tmp_path))
    assert [line["step"] for line in read_log(tmp_path)] == [5]
    assert [line["step"] for line in read_log(tmp_path, "step")] == [2, 4]


def test_an_epoch_entered_in_its_middle_has_the_means_of_all_its_steps(tmp_path: Path) -> None:
    done = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]], dtype=torch.float64)
    with monitor(tmp_path, step=3, terms=done, term_names=("a", "b")) as watch:
        watch.start_epoch()
        watch.record(terms(4, 40), batch(), lr=0.1)
        watch.check()
        assert torch.equal(watch.terms, torch.cat([done, torch.tensor([[4.0, 40.0]], dtype=torch.float64)]))
        watch.record(terms(5, 50), batch(), lr=0.1)
        watch.end_epoch(0, 0.1, None)
    assert [(line["kind"], line["terms"]["a"]) for line in lines(tmp_path)] == [("step", 3.5), ("epoch", 3.0)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_is_told_with_its_step_terms_and_samples(tmp_path: Path, bad: float) -> None:
    with monitor(tmp_path, log_every=50, step=5) as watch:
        watch.start_epoch()
        watch.record(terms(1, 2), batch(), lr=0.1)
        watch.record(terms(bad, 2), batch(31, 7), lr=0.1)
        watch.record(terms(bad, bad), batch(8, 9), lr=0.1)
        message = rf"epoch 1, step 1 of 5 .*a {bad}, b 2, .*samples \[31, 7\]"
        with pytest.raises(DivergenceError, match=message):
            watch.check()


def test_a_loss_that_is_no_number_is_found_within_ten_steps(tmp_path: Path) -> None:
    with monitor(tmp_path, log_every=50, epoch_steps=50) as watch:
        watch.record(terms(float("nan"), 2), batch(), lr=0.1)
        with pytest.raises(DivergenceError, match="step 0 of 50"):
            [watch.record(terms(1, 1), batch(), lr=0.1) for _ in range(9)]


def test_truncation_keeps_the_lines_up_to_a_step_and_drops_half_a_line(tmp_path: Path) -> None:
    whole = [json.dumps({"kind": "step", "epoch": 0, "step": step, "loss": 0.1 * step}) for step in range(5)]
    (tmp_path / LOG).write_text("\n".join(whole) + '\n{"kind": "ep')
    truncate_log(tmp_path, 3)
    assert (tmp_path / LOG).read_text().splitlines() == whole[:4]
    truncate_log(tmp_path, -1)
    assert (tmp_path / LOG).read_text() == ""


def test_a_run_without_log_has_no_lines(tmp_path: Path) -> None:
    truncate_log(tmp_path, 3)
    assert read_log(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("garbage", ["hello", "[1]", '{"kind": "step"}', "7"])
def test_a_garbled_log_is_told_with_its_line(tmp_path: Path, garbage: str) -> None:
    good = json.dumps({"kind": "step", "epoch": 0, "step": 1})
    (tmp_path / LOG).write_text(f"{good}\n{garbage}\n{good}\n")
    with pytest.raises(CheckpointError, match=r"log\.jsonl: line 2: found"):
        read_log(tmp_path)


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    def steps(watch: Monitor, values: list[float]) -> None:
        for value in values:
            watch.record(terms(value, 0), batch(), lr=0.1)

    with monitor(tmp_path, log_every=1) as watch:
        steps(watch, [1, 2, 3, 4])
    done = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    with monitor(tmp_path, log_every=1, step=2, terms=done, term_names=("a", "b")) as watch:
        steps(watch, [30, 40, 50])
        watch.end_epoch(0, 0.1, {"retrieval": 0.25})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("step/a")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
        (4, 40.0),
        (5, 50.0),
    ]
    assert [event.value for event in events.Scalars("probe/retrieval")] == [0.25]
    assert [line["step"] for line in read_log(tmp_path, "step")] == [1, 2, 3, 4, 5]


def test_the_bar_shows_loss_and_rate_and_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with monitor(tmp_path / "quiet") as watch:
        watch.record(terms(1, 2), batch(), lr=0.1)
        watch.check()
    assert capsys.readouterr() == ("", "")
    with monitor(tmp_path / "loud", progress=True) as watch:
        watch.record(terms(1, 2), batch(), lr=0.1)
        watch.check()
    text = capsys.readouterr().err
    assert "loss 3" in text
    assert "samples/s" in text
