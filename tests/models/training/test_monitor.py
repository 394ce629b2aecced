"""What a monitor reads, writes and refuses, against means, spectra and medians worked out by hand."""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from models.collectives import rank
from models.objectives.objective import Outcome
from models.training.collapse import effective_rank, feature_std
from models.training.divergence import HISTORY, LEAST, DivergenceError, loss_limit
from models.training.growing_files import GrowingFile
from models.training.monitor import Monitor
from models.training.runlog import LOG, TIME_FIELDS, RunLog, read_log, truncate_log
from shards.batch import Views
from shards.errors import CheckpointError

NAN = float("nan")


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


def outcome(a: float, b: float, features: Tensor | None = None, **metrics: float) -> Outcome:
    watched = {name.replace("_of_", "/"): torch.tensor(value) for name, value in metrics.items()}
    return Outcome(
        {"a": torch.tensor(a), "b": torch.tensor(b)}, watched, torch.eye(2) if features is None else features
    )


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / LOG).read_text().splitlines()]


def test_lines_hold_the_means_of_their_steps(tmp_path: Path) -> None:
    with monitor(tmp_path) as watch:
        watch.start_epoch()
        for value in (1.0, 2.0, 3.0, 4.0, 5.0):
            watch.record(outcome(value, 10 * value), batch(), lr=0.1)
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
        watch.record(outcome(4, 40), batch(), lr=0.1)
        watch.check()
        assert torch.equal(watch.terms, torch.cat([done, torch.tensor([[4.0, 40.0]], dtype=torch.float64)]))
        watch.record(outcome(5, 50), batch(), lr=0.1)
        watch.end_epoch(0, 0.1, None)
    assert [(line["kind"], line["terms"]["a"]) for line in lines(tmp_path)] == [("step", 3.5), ("epoch", 3.0)]


@pytest.mark.parametrize(("terms", "factor"), [(None, 11), (("b",), 10)])
def test_the_end_of_an_epoch_tells_the_mean_of_its_loss(
    tmp_path: Path, terms: tuple[str, ...] | None, factor: float
) -> None:
    with monitor(tmp_path) as watch:
        for epoch, values in enumerate(((1.0, 2.0, 3.0, 4.0, 5.0), (7.0, 7.0, 7.0, 8.0, 8.0))):
            watch.start_epoch(terms)
            for value in values:
                watch.record(outcome(value, 10 * value, x_of_y=0.5), batch(), lr=0.1)
            loss = watch.end_epoch(epoch, 0.1, None)
            assert loss == pytest.approx(factor * sum(values) / 5, rel=1e-12)
            assert loss == pytest.approx(lines(tmp_path)[-1]["loss"], rel=1e-12)


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_told_with_its_step_terms_and_samples(tmp_path: Path, bad: float) -> None:
    with monitor(tmp_path, log_every=50, step=5) as watch:
        watch.start_epoch()
        watch.record(outcome(1, 2), batch(), lr=0.1)
        watch.record(outcome(bad, 2), batch(31, 7), lr=0.1)
        watch.record(outcome(bad, bad), batch(8, 9), lr=0.1)
        message = rf"epoch 1, step 1 of 5 .*: found a {bad}, the loss terms a {bad}, b 2, .*; samples \[31, 7\]$"
        with pytest.raises(DivergenceError, match=message):
            watch.check()


def test_a_loss_that_is_no_number_is_found_within_ten_steps(tmp_path: Path) -> None:
    with monitor(tmp_path, log_every=50, epoch_steps=50) as watch:
        watch.record(outcome(NAN, 2), batch(), lr=0.1)
        with pytest.raises(DivergenceError, match="step 0 of 50"):
            [watch.record(outcome(1, 1), batch(), lr=0.1) for _ in range(9)]


def test_the_first_value_that_is_no_number_is_named_also_among_what_is_watched(tmp_path: Path) -> None:
    with monitor(tmp_path) as watch:
        watch.record(outcome(1, NAN, accuracy_of_x=NAN), batch(), lr=0.1)
        with pytest.raises(DivergenceError, match="found b nan, the loss terms a 1, b nan,"):
            watch.check()
    with monitor(tmp_path) as watch:
        watch.record(outcome(1, 2), batch(5, 6), lr=0.1, gradient_norm=torch.tensor(math.inf))
        with pytest.raises(DivergenceError, match=r"found gradient_norm inf, the loss terms a 1, b 2, .*\[5, 6\]"):
            watch.check()


def explosive(run: Path, **options: Any) -> Monitor:
    return monitor(run, epoch_steps=1000, log_every=1000, explosion=10.0, **options)


def test_a_loss_far_above_its_median_stops_with_the_term_that_has_risen_most(tmp_path: Path) -> None:
    with explosive(tmp_path) as watch:
        for _ in range(25):
            watch.record(outcome(2, 1), batch(), lr=0.1)
        watch.record(outcome(20, 9.5), batch(), lr=0.1)  # 29.5 is below 10 times 3
        watch.record(outcome(7, 24), batch(31, 7), lr=0.1)
        with pytest.raises(DivergenceError) as caught:
            watch.check()
    message = str(caught.value)
    assert message.startswith("epoch 0, step 26 of 1000 (both from 0): found the loss 31 of the terms a 7, b 24,")
    assert "expected at most 30 after a median of 3 in 26 steps (explosion 10)" in message
    assert message.endswith("most has risen b, from a median of 1; samples [31, 7]")
    assert len(watch.terms) == 20  # those before the check that failed


@pytest.mark.parametrize("known", [LEAST - 1, LEAST])
def test_an_explosion_shows_right_after_a_resume_once_enough_steps_are_known(tmp_path: Path, known: int) -> None:
    done = torch.tensor([[2.0, 1.0]], dtype=torch.float64).expand(known, 2)
    with explosive(tmp_path, step=known, terms=done, term_names=("a", "b")) as watch:
        watch.record(outcome(1000, 1), batch(), lr=0.1)
        if known < LEAST:
            watch.check()
        else:
            with pytest.raises(DivergenceError, match=f"epoch 0, step {LEAST} of 1000"):
                watch.check()


def test_only_the_last_hundred_steps_say_what_the_loss_was(tmp_path: Path) -> None:
    with explosive(tmp_path) as watch:
        for value in [100.0] * 500 + [5.0] * HISTORY:
            watch.record(outcome(value, 0), batch(), lr=0.1)
        watch.record(outcome(100, 0), batch(), lr=0.1)
        with pytest.raises(DivergenceError, match="expected at most 50 after a median of 5 in 100 steps"):
            watch.check()


def test_a_term_that_is_not_trained_is_logged_but_neither_summed_nor_exploding(tmp_path: Path) -> None:
    with explosive(tmp_path) as watch:
        watch.start_epoch(["b"])
        for value in (*[1.0] * 40, 1e6):
            watch.record(outcome(value, 2), batch(), lr=0.1)
        watch.end_epoch(0, 0.1, None)
    (line,) = lines(tmp_path)
    assert line["loss"] == 2
    assert line["terms"] == {"a": pytest.approx((40 + 1e6) / 41), "b": 2.0}


@given(st.lists(st.floats(-1e6, 1e6), min_size=LEAST, max_size=HISTORY), st.floats(1.5, 100))
def test_the_limit_of_a_loss_is_a_multiple_of_its_median_where_that_is_a_scale(
    losses: list[float], factor: float
) -> None:
    usual, limit = median(losses), loss_limit(losses, factor)
    if usual >= 1:
        assert limit == pytest.approx(factor * usual)
    else:  # never closer than a loss of 1 would have it
        assert limit - usual >= (factor - 1) * (1 - 1e-9)
    assert loss_limit(losses, 0) == loss_limit(losses[: LEAST - 1], factor) == math.inf


def test_metrics_are_means_over_the_same_steps_and_gradients_also_have_a_maximum(tmp_path: Path) -> None:
    with monitor(tmp_path, queue_age=lambda step: min(step, 3)) as watch:
        watch.start_epoch()
        for value in (1.0, 2.0, 3.0, 4.0, 5.0):
            done = outcome(1, 2, accuracy_of_base=value / 10)
            watch.record(done, batch(), lr=0.1, gradient_norm=torch.tensor(value**2, dtype=torch.float64))
        watch.end_epoch(0, 0.1, None)
    found = [line["metrics"] for line in lines(tmp_path)]
    assert [m["accuracy/base"] for m in found] == pytest.approx([0.15, 0.35, 0.3])
    assert [m["gradient_norm"] for m in found] == [2.5, 12.5, 11.0]
    assert [m["gradient_norm_max"] for m in found] == [4.0, 16.0, 25.0]
    assert [line["queue_age"] for line in lines(tmp_path)] == [2, 3, 3]
    assert [line["terms"] for line in lines(tmp_path)] == [{"a": 1.0, "b": 2.0}] * 3
    assert [line["loss"] for line in lines(tmp_path)] == [3.0] * 3


def test_the_spread_is_that_of_the_last_steps_features(tmp_path: Path) -> None:
    with monitor(tmp_path, log_every=3) as watch:
        for features in (torch.ones(4, 2), torch.ones(4, 2), torch.cat([torch.eye(2), -torch.eye(2)])):
            watch.record(outcome(1, 2, features), batch(), lr=0.1)
    (line,) = lines(tmp_path)
    assert line["metrics"] == {
        "feature_std": pytest.approx(1 / math.sqrt(2)),
        "effective_rank": pytest.approx(2.0),
    }


def test_a_run_taken_up_in_the_middle_of_an_epoch_writes_the_same_lines(tmp_path: Path) -> None:
    def steps(watch: Monitor, numbers: range) -> None:
        watch.start_epoch()
        for n in numbers:
            features = torch.randn(6, 3, generator=torch.Generator().manual_seed(n))
            done = outcome(0.1 * n, 1 / (n + 1), features, accuracy_of_x=n / 7)
            watch.record(done, batch(), lr=0.1, waited=0.01, gradient_norm=torch.tensor(n / 3))

    def untimed(run: Path) -> list[dict[str, Any]]:
        return [{name: value for name, value in line.items() if name not in TIME_FIELDS} for line in lines(run)]

    with monitor(tmp_path / "whole") as watch:
        steps(watch, range(5))
        watch.end_epoch(0, 0.1, None)
    with monitor(tmp_path / "parts") as watch:
        steps(watch, range(3))
        watch.check()
        watch.sync()
    names = watch.term_names
    assert names == ("a", "b", "metric:accuracy/x", "metric:gradient_norm")
    with monitor(tmp_path / "parts", step=3, terms=watch.terms, term_names=names) as second:
        steps(second, range(3, 5))
        second.end_epoch(0, 0.1, None)
    assert len(untimed(tmp_path / "whole")) == 3
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "whole")


def test_steps_of_other_columns_than_the_unfinished_epochs_are_refused(tmp_path: Path) -> None:
    done = torch.tensor([[1.0, 10.0]], dtype=torch.float64)
    message = r"found a step with \('a', 'b'\), expected \('a', 'c'\)"
    watched = monitor(tmp_path, step=1, terms=done, term_names=("a", "c"))
    with watched as watch, pytest.raises(CheckpointError, match=message):
        watch.record(outcome(1, 2), batch(), lr=0.1)


def test_lines_say_what_share_of_the_time_waited_and_the_memory(tmp_path: Path) -> None:
    with monitor(tmp_path, log_every=1) as watch:
        watch.start_epoch()
        start = time.perf_counter()
        for waited in (0.0, 1e-5, 1e9):
            watch.record(outcome(1, 2), batch(), lr=0.1, waited=waited)
        elapsed = time.perf_counter() - start
    never, briefly, always = (line["stalled"] for line in lines(tmp_path))
    assert never == 0
    assert 1e-5 / elapsed - 1e-4 <= briefly <= 1
    assert always == 1
    assert 0.05 < lines(tmp_path)[0]["memory_gb"] < 100  # torch alone takes 0.2 GB


def test_a_step_between_two_checks_reads_nothing_from_the_device(tmp_path: Path) -> None:
    nowhere = torch.zeros((), device="meta")  # has no value to be read
    with monitor(tmp_path, epoch_steps=50, log_every=50) as watch:
        for _ in range(9):
            done = Outcome({"a": nowhere}, {"accuracy/x": nowhere}, torch.zeros(2, 3, device="meta"))
            watch.record(done, batch(), lr=0.1, waited=0.1, gradient_norm=nowhere)
        with pytest.raises(NotImplementedError, match="meta tensor"):
            watch.check()


def spectrum(*singular: float, rows: int = 8) -> Tensor:
    """Features (rows, 5) whose centred matrix has these singular values, away from the origin."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, len(singular), generator=generator, dtype=torch.float64)
    left, _ = torch.linalg.qr(noise - noise.mean(0))
    right, _ = torch.linalg.qr(torch.randn(5, len(singular), generator=generator, dtype=torch.float64))
    return left @ torch.diag(torch.tensor(singular, dtype=torch.float64)) @ right.T + torch.arange(5)


@pytest.mark.parametrize(
    ("singular", "expected"),
    [
        ((3.0,), 1.0),
        ((2.0, 2.0), 2.0),
        ((7.0, 7.0, 7.0, 7.0, 7.0), 5.0),
        ((2.0, 1.0, 1.0), 2**1.5),  # entropy of 1/2, 1/4, 1/4: 1.5 bits
        ((1.0, 1e-9), 1.0),
    ],
)
def test_the_effective_rank_of_known_spectra(singular: tuple[float, ...], expected: float) -> None:
    assert effective_rank(spectrum(*singular)) == pytest.approx(expected, rel=1e-6)
    assert effective_rank(100 * spectrum(*singular, rows=6)) == pytest.approx(expected, rel=1e-6)


def test_features_that_are_all_one_have_neither_rank_nor_spread() -> None:
    for row in (torch.zeros(3), torch.tensor([0.1, 0.7, -1 / 3])):
        assert effective_rank(row.expand(7, 3)) == 0
        assert feature_std(row.expand(7, 3)) == pytest.approx(0, abs=1e-15)


@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 99))
def test_the_effective_rank_is_that_of_the_singular_values(n: int, dim: int, seed: int) -> None:
    features = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + 1
    singular = torch.linalg.svdvals(features.double() - features.double().mean(0))
    shares = [value for value in (singular / singular.sum()).tolist() if value > 1e-12]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(features) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dim", [2, 8, 100])
def test_evenly_spread_directions_have_the_spread_of_no_collapse_at_any_length(dim: int) -> None:
    directions = torch.cat([torch.eye(dim), -torch.eye(dim)])
    lengths = torch.linspace(0.1, 50, 2 * dim)[:, None]
    assert feature_std(directions) == pytest.approx(1 / math.sqrt(dim))
    assert feature_std(lengths * directions) == pytest.approx(1 / math.sqrt(dim))


def watched_by_ranks() -> dict[str, Any]:
    """Each rank records its own values in a folder of its own, then a step that is no number on the second."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        with monitor(run, progress=True, log_every=2) as watch:
            watch.start_epoch()
            for value in (1.0, 2.0):
                own = torch.eye(2) if rank() == 0 else -torch.eye(2)
                watch.record(outcome(value + 2 * rank(), 0, own, accuracy_of_x=float(rank())), batch(), lr=0.1)
            names = sorted(path.name for path in run.iterdir())
            log = (run / LOG).read_text() if names else ""
            bad = NAN if rank() == 1 else 1.0
            watch.record(outcome(1, bad, accuracy_of_x=0.0), batch(10 * rank(), 10 * rank() + 1), lr=0.1)
            try:
                watch.check()
            except DivergenceError as error:
                return {"names": names, "log": log, "terms": watch.terms, "error": str(error)}
    raise AssertionError("no error")


def test_ranks_read_the_same_means_and_fail_together_and_one_writes(in_ranks: Callable[..., Any]) -> None:
    first, second = in_ranks(watched_by_ranks, 2)
    assert first["names"] == [LOG, "tensorboard"]
    assert second["names"] == []
    assert torch.equal(first["terms"], torch.tensor([[2.0, 0, 0.5], [3.0, 0, 0.5]], dtype=torch.float64))
    assert torch.equal(first["terms"], second["terms"])
    line = json.loads(first["log"])
    assert line["terms"] == {"a": 2.5, "b": 0.0}
    assert line["metrics"]["effective_rank"] == pytest.approx(2)  # of all four rows; two alone would give 1
    assert first["error"] == second["error"]
    assert "found b nan, the loss terms a 1, b nan" in first["error"]
    assert first["error"].endswith("samples [10, 11] of rank 1")


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
            watch.record(outcome(value, 0), batch(), lr=0.1)

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


def test_the_bar_shows_loss_rate_and_waiting_and_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with monitor(tmp_path / "quiet") as watch:
        watch.start_epoch()
        watch.record(outcome(1, 2), batch(), lr=0.1)
        watch.check()
    assert capsys.readouterr() == ("", "")
    with monitor(tmp_path / "loud", progress=True, step=5) as watch:
        watch.start_epoch()
        watch.record(outcome(1, 2), batch(), lr=0.1, waited=1e9)
        watch.check()
    text = capsys.readouterr().err
    for part in ("epoch 2 of 3", "loss 3", "samples/s", "100% stalled", "6/15"):
        assert part in text


def test_the_time_left_of_a_resumed_run_counts_its_own_steps_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with monitor(tmp_path, progress=True, epoch_steps=1000, epochs=1, step=900, log_every=1000) as watch:
        watch._bar._begun -= 10  # as if it had begun ten seconds ago
        for _ in range(10):
            watch.record(outcome(1, 2), batch(), lr=0.1)
        assert "910/1000 [00:10<01:30" in str(watch._bar)
    capsys.readouterr()


LINE = {"kind": "step", "epoch": 0, "step": 1, "lr": 0.1, "terms": {}, "metrics": {}}


def test_a_log_without_room_for_its_line_is_told(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log._lines.close()
    log._lines = GrowingFile(Path("/dev/full"))  # every write to it finds the disk full
    with pytest.raises(CheckpointError, match=r"log\.jsonl: found no space left .*resume from the last checkpoint"):
        log.write(LINE)
    log.close()


def test_a_log_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir()
    with pytest.raises(CheckpointError, match=r"log\.jsonl: found a place that cannot be written \(Is a directory\)"):
        RunLog(tmp_path, 0)


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_training_goes_on_without_events_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    if when == "at the start":
        (tmp_path / "tensorboard").touch()
    log = RunLog(tmp_path, 0)
    if log._events is not None:
        log._events.close()
        log._events._file = GrowingFile(Path("/dev/full"))
    for _ in range(3):
        log.write(LINE)
    log.close()
    reason = "no space left" if when == "later" else "a place that cannot be written"
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"skelstream: {tmp_path / 'tensorboard'}: found {reason} (")
    assert told.endswith("the training goes on without them, log.jsonl has the same numbers")
    assert len(read_log(tmp_path, "step")) == 3


# a limit of the kernel on the size of a file lets half of a piece through
GROWN = """
import resource, sys
from pathlib import Path
from models.training.growing_files import GrowingFile

file = GrowingFile(Path(sys.argv[1]))
file.append(b"a" * 60)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    file.append(b"b" * 60)
except OSError as error:
    print(error.strerror)
"""


def test_half_a_piece_does_not_stay_in_a_growing_file(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-W", "error", "-c", GROWN, str(tmp_path / "log")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("File too large\n", "")
    assert (tmp_path / "log").read_bytes() == b"a" * 60
