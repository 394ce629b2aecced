import json
import logging
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.encoders.encoder import Encoder
from models.encoders.gru import GRUConfig
from models.objectives.objective import Outcome, ParameterGroup, Progress, Split
from models.objectives.pcm3pp import PCM3PP, PCM3PPConfig
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.divergence import DivergenceError
from models.training.engine import train
from models.training.optimizers import AdamConfig, AdamWConfig, SGDConfig
from models.training.runlog import LOG, TIME_FIELDS, read_log
from models.training.schedule import Stage, TrainConfig
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError
from tests.models.standins import BATCH, WIDTH, Parabola, Tiny

STEPS = 7
META = {"fingerprint": "abc123", "recipe": "pcm3"}


@dataclass
class TinyViews:
    """Seven batches an epoch, a pure function of (epoch, step); `before` is called with each before it is given out."""

    before: Callable[[int, int], None] = field(default=lambda epoch, step: None)
    steps: int = STEPS

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        for step in range(first_step, self.steps):
            self.before(epoch, step)
            x = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1000 * epoch + step))
            number = torch.arange(BATCH) + BATCH * step
            yield Views({"x": x}, number % 2, number)


def signal_at(epoch: int, step: int, number: signal.Signals = signal.SIGINT) -> TinyViews:
    return TinyViews(lambda *position: signal.raise_signal(number) if position == (epoch, step) else None)


def post(epochs: int, terms: tuple[str, ...] = ("pull",), **options: Any) -> tuple[Stage, ...]:
    """One stage after the main one."""
    return (Stage(name="post", epochs=epochs, terms=terms, **options),)


def config(**changes: Any) -> TrainConfig:
    defaults = {"epochs": 4, "batch_size": BATCH, "checkpoint_every": 2, "milestones": (3,), "log_every": 3}
    return TrainConfig(**(defaults | changes))


def lines_without_time(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (run / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIME_FIELDS} for line in lines]


def files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def assert_equal_runs(left: Path, right: Path) -> None:
    (a, b) = (latest_checkpoint(run) for run in (left, right))
    assert a is not None
    assert b is not None
    assert a.name == b.name
    assert a.read_bytes() == b.read_bytes()
    assert lines_without_time(left) == lines_without_time(right)


def test_the_steps_are_those_of_sgd_written_out(tmp_path: Path) -> None:
    settings = config(epochs=3, milestones=(1, 2), lr=0.1, optimizer=SGDConfig(weight_decay=0.01), seed=1)
    model = Parabola()
    result = train(model, TinyViews(), settings, tmp_path, meta=META)
    weight, velocity, losses, norms = 2.0, 0.0, [], []
    for epoch in range(3):
        for step in range(STEPS):
            target = 1 + 0.1 * epoch + 0.01 * step
            losses.append(0.5 * (weight - target) ** 2 + 0.5 * weight)
            norms.append(abs(weight - target + 0.5))
            velocity = 0.9 * velocity + (weight - target) + 0.5 + 0.01 * weight
            weight -= 0.1 * 0.1**epoch * velocity
    assert model.weight.item() == pytest.approx(weight, rel=1e-12)
    for name, values in (("loss", losses), ("norm", norms)):
        found = [line["loss"] if name == "loss" else line["metrics"]["gradient_norm"] for line in result.curves]
        assert found == pytest.approx([sum(values[i : i + STEPS]) / STEPS for i in (0, STEPS, 2 * STEPS)], rel=1e-12)
    assert [line["lr"] for line in result.curves] == pytest.approx([0.1, 0.01, 0.001])


def test_the_post_stage_sums_its_terms_at_its_rate_with_fresh_momentum(tmp_path: Path) -> None:
    settings = config(epochs=1, lr=0.1, optimizer=SGDConfig(weight_decay=0.0), stages=post(2, terms=("near",), lr=0.03))
    model = Parabola()
    result = train(model, TinyViews(), settings, tmp_path, meta=META)
    weight, velocity, losses = 2.0, 0.0, []
    for epoch in range(3):
        velocity = 0.0 if epoch == 1 else velocity
        for step in range(STEPS):
            target = 0.1 * epoch + 0.01 * step
            far = 0.5 if epoch == 0 else 0.0
            losses.append(0.5 * (weight - target) ** 2 + far * weight)
            velocity = 0.9 * velocity + (weight - target) + far
            weight -= (0.1 if epoch == 0 else 0.03) * velocity
    assert model.weight.item() == pytest.approx(weight, rel=1e-12)
    assert [line["loss"] for line in result.curves] == pytest.approx(
        [sum(losses[i : i + STEPS]) / STEPS for i in (0, STEPS, 2 * STEPS)], rel=1e-12
    )
    assert [line["lr"] for line in result.curves] == [0.1, 0.03, 0.03]
    assert all(line["terms"].keys() == {"near", "far"} for line in result.curves)
    assert (result.epochs, result.steps) == (3, 3 * STEPS)


def test_a_stage_may_go_on_with_all_terms_and_the_momentum_it_finds(tmp_path: Path) -> None:
    stages = (Stage(name="on", epochs=1, lr=0.03, fresh=False), Stage(name="left-out"), Stage(name="new", epochs=1))
    model = Parabola()
    train(
        model, TinyViews(), config(epochs=1, lr=0.1, optimizer=SGDConfig(weight_decay=0.0), stages=stages),
        tmp_path, meta=META,
    )  # fmt: skip
    weight, velocity = 2.0, 0.0
    for epoch, rate in enumerate((0.1, 0.03, 0.002)):
        velocity = 0.0 if epoch == 2 else velocity
        for step in range(STEPS):
            velocity = 0.9 * velocity + (weight - 0.1 * epoch - 0.01 * step) + 0.5
            weight -= rate * velocity
    assert model.weight.item() == pytest.approx(weight, rel=1e-12)
    assert files(tmp_path) == ["epoch_0001.pt", "epoch_0002.pt", "epoch_0003.pt"]


def test_groups_of_the_objective_have_their_rate_and_their_decay(tmp_path: Path) -> None:
    class Slow(Parabola):
        def groups(self) -> tuple[ParameterGroup, ...]:
            return (ParameterGroup(("encoders.joint.inner.weight",), rate=0.5, decay=False),)

    model = Slow()
    result = train(
        model, TinyViews(), config(epochs=1, lr=0.1, optimizer=SGDConfig(weight_decay=0.5)), tmp_path, meta=META
    )
    weight, velocity = 2.0, 0.0
    for step in range(STEPS):
        velocity = 0.9 * velocity + (weight - 0.01 * step) + 0.5
        weight -= 0.05 * velocity
    assert model.weight.item() == pytest.approx(weight, rel=1e-12)
    assert [line["lr"] for line in result.curves] == [0.1]


@pytest.mark.parametrize("scope", ["all", "each"])
def test_a_gradient_is_clipped_and_the_log_has_its_length_before(tmp_path: Path, scope: str) -> None:
    settings = config(epochs=1, lr=0.1, optimizer=SGDConfig(weight_decay=0.0), clip=0.25, clip_scope=scope)
    model = Parabola()
    result = train(model, TinyViews(), settings, tmp_path, meta=META)
    weight, velocity, norms = 2.0, 0.0, []
    for step in range(STEPS):
        gradient = weight - 0.01 * step + 0.5
        norms.append(abs(gradient))
        velocity = 0.9 * velocity + gradient * min(1, 0.25 / (abs(gradient) + 1e-6))
        weight -= 0.1 * velocity
    assert model.weight.item() == pytest.approx(weight, rel=1e-12)
    assert result.curves[0]["metrics"]["gradient_norm"] == pytest.approx(sum(norms) / STEPS, rel=1e-12)
    assert result.curves[0]["metrics"]["gradient_norm_max"] == pytest.approx(max(norms), rel=1e-12)
    assert min(norms) > 0.25


def test_the_last_checkpoint_of_the_main_stage_stays_for_good(tmp_path: Path) -> None:
    settings = config(epochs=3, keep_checkpoints=1, checkpoint_every=1, stages=post(3))
    train(Tiny(), TinyViews(), settings, tmp_path, meta=META)
    assert files(tmp_path) == ["epoch_0003.pt", "epoch_0006.pt"]
    kept = load_checkpoint(tmp_path / "checkpoints" / "epoch_0003.pt")
    assert kept.optimizer, "the momentum of the main stage is in it"


def test_checkpoints_at_multiples_of_keep_every_stay_for_good(tmp_path: Path) -> None:
    settings = config(epochs=8, keep_checkpoints=1, checkpoint_every=2, keep_every=3)
    train(Tiny(), TinyViews(), settings, tmp_path, meta=META)
    assert files(tmp_path) == ["epoch_0003.pt", "epoch_0006.pt", "epoch_0008.pt"]


def test_checkpoints_come_within_an_epoch_on_request(tmp_path: Path) -> None:
    train(Tiny(), TinyViews(), config(epochs=1), tmp_path / "plain", meta=META)
    train(Tiny(), TinyViews(), config(epochs=1, checkpoint_steps=3), tmp_path / "often", meta=META)
    assert files(tmp_path / "often") == ["epoch_0000_step_000003.pt", "epoch_0000_step_000006.pt", "epoch_0001.pt"]
    assert lines_without_time(tmp_path / "plain") == lines_without_time(tmp_path / "often")


def test_terms_of_the_post_stage_that_the_objective_lacks_are_refused_before_the_first_update(tmp_path: Path) -> None:
    model, before = Tiny(), Tiny()
    settings = config(stages=post(1, terms=("pull", "twist")))
    message = r"found stages of the terms \['pull', 'twist'\], expected some of \['pull', 'push'\]"
    with pytest.raises(ConfigError, match=message):
        train(model, TinyViews(), settings, tmp_path, meta=META)
    assert torch.equal(model.encoder.inner[1].weight, before.encoder.inner[1].weight)


def test_a_run_leaves_checkpoints_log_and_result(tmp_path: Path) -> None:
    result = train(Tiny(), TinyViews(), config(epochs=5), tmp_path, meta=META)
    assert (result.epochs, result.steps) == (5, 35)
    assert result.checkpoint == tmp_path / "checkpoints" / "epoch_0005.pt"
    assert sorted(path.name for path in result.checkpoint.parent.iterdir()) == [
        "epoch_0002.pt",
        "epoch_0004.pt",
        "epoch_0005.pt",
    ]
    assert [line["epoch"] for line in result.curves] == [0, 1, 2, 3, 4]
    assert result.curves[0]["terms"].keys() == {"pull", "push"}
    assert result.curves[-1]["loss"] < result.curves[0]["loss"]
    assert [line["step"] for line in read_log(tmp_path, "step")][:4] == [3, 6, 10, 13]
    assert load_checkpoint(result.checkpoint).meta == META
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_equal_runs_are_equal_to_the_bit_and_another_seed_is_another_run(tmp_path: Path) -> None:
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        train(Tiny(), TinyViews(), config(seed=seed), tmp_path / name, meta=META)
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    assert lines_without_time(tmp_path / "a") != lines_without_time(tmp_path / "c")


@pytest.mark.parametrize("stop", [(0, 0), (0, 1), (1, 4), (1, STEPS - 1), (2, 0), (3, 3), (4, 0), (4, 1), (5, 0)])
def test_an_interrupted_and_resumed_run_equals_an_undisturbed_one(tmp_path: Path, stop: tuple[int, int]) -> None:
    settings = config(stages=post(2))
    train(Tiny(), TinyViews(), settings, tmp_path / "whole", meta=META)
    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), signal_at(*stop), settings, tmp_path / "parts", meta=META)
    taken = latest_checkpoint(tmp_path / "parts")
    assert taken is not None
    # the signal comes with the views of a step, so that step is the first that is not done
    assert load_checkpoint(taken).step == stop[0] * STEPS + stop[1]
    result = train(Tiny(), TinyViews(), settings, tmp_path / "parts", meta=META, resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    main = "checkpoints/epoch_0004.pt"
    assert (tmp_path / "whole" / main).read_bytes() == (tmp_path / "parts" / main).read_bytes()
    assert [line["epoch"] for line in result.curves] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("stop", [(0, 0), (1, 4), (2, 0), (3, 1)])
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": AdamConfig(weight_decay=0.01)},
        {"optimizer": AdamWConfig(layer_decay=0.5), "schedule": "cosine", "min_lr": 1e-3},
        {"optimizer": SGDConfig(nesterov=True), "clip": 0.1, "clip_scope": "each"},
        {"schedule": "plateau", "patience": 1, "optimizer": SGDConfig(momentum=0.5)},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_run_goes_on_as_undisturbed_under_any_optimiser_and_schedule(
    tmp_path: Path, stop: tuple[int, int], changes: dict[str, Any]
) -> None:
    settings = config(**changes, stages=(Stage(name="on", epochs=1, schedule="main", fresh=False),))
    whole = train(Tiny(), TinyViews(), settings, tmp_path / "whole", meta=META)
    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), signal_at(*stop), settings, tmp_path / "parts", meta=META)
    train(Tiny(), TinyViews(), settings, tmp_path / "parts", meta=META, resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    losses = [line["loss"] for line in whole.curves]
    assert load_checkpoint(whole.checkpoint).losses.tolist() == pytest.approx(losses, rel=1e-12)
    if settings.schedule != "step":
        assert len({line["lr"] for line in whole.curves}) > 1


def test_the_hooks_come_around_each_step_in_their_order(tmp_path: Path) -> None:
    class Told(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[Any] = []
            self.steps_of_norm: list[int] = []

        def begin_epoch(self, progress: Progress, split: Split) -> None:
            self.calls.append(("begin", *progress))

        def before_step(self, progress: Progress) -> None:
            self.calls.append(("before", *progress))

        def draw(self, seed: int, epoch: int, step: int, n: int) -> Tensor:
            self.calls.append(("draw", epoch, step))
            return super().draw(seed, epoch, step, n)

        def forward(self, views: Views, draws: Tensor) -> Outcome:
            self.calls.append("forward")
            outcome = super().forward(views, draws)
            self.steps_of_norm.append(int(self.encoder.inner[0].num_batches_tracked))
            return outcome

        def after_step(self, outcome: Outcome) -> None:
            self.calls.append("after")
            self.steps_of_norm.append(int(self.encoder.inner[0].num_batches_tracked))
            assert not any(term.requires_grad for term in outcome.terms.values())
            super().after_step(outcome)

    model = Told()
    train(model, TinyViews(steps=2), config(epochs=1, stages=post(1)), tmp_path, meta=META, split=lambda: iter(()))
    expected: list[Any] = []
    for epoch, stage in enumerate(("main", "post")):
        expected.append(("begin", epoch, 0, 2, 2, stage, epoch))
        for step in range(2):
            expected += [("before", epoch, step, 2, 2, stage, epoch), ("draw", epoch, step), "forward", "after"]
    assert model.calls == expected
    assert model.steps_of_norm == [0, 1, 1, 2, 2, 3, 3, 4], "a forward pass itself records no statistics"


class Centred(Tiny):
    """Pulled towards a centre that moves between epochs, by what it was and by the whole split."""

    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(3))
        self.begun: list[Progress] = []

    @torch.no_grad()
    def begin_epoch(self, progress: Progress, split: Split) -> None:
        self.begun.append(progress)
        self.eval()
        features = torch.cat([self.encoder(batch.views["x"]).feature for batch in split()])
        self.centre.mul_(0.5).add_(features.mean(0))

    def forward(self, views: Views, draws: Tensor) -> Outcome:
        outcome = super().forward(views, draws)
        pull = (self.encoder(views.views["x"]).feature - self.centre.clone()).square().mean()
        return replace(outcome, terms=outcome.terms | {"centre": pull})


def whole_split() -> Iterator[Views]:
    return TinyViews(steps=2).epoch(99)


@pytest.mark.parametrize(
    ("stop", "first", "second"),
    [((0, 0), [], [0, 1, 2]), ((1, 0), [0], [1, 2]), ((1, 3), [0, 1], [2]), ((2, 6), [0, 1, 2], [])],
)
def test_an_epoch_is_begun_once_however_often_a_run_is_interrupted_within_it(
    tmp_path: Path, stop: tuple[int, int], first: list[int], second: list[int]
) -> None:
    settings, whole = config(epochs=2, stages=post(1, terms=("centre",))), Centred()
    train(whole, TinyViews(), settings, tmp_path / "whole", meta=META, split=whole_split)
    assert [progress.epoch for progress in whole.begun] == [0, 1, 2]
    assert whole.training, "an objective that turns itself to evaluation is trained all the same"
    before, after = Centred(), Centred()
    with pytest.raises(KeyboardInterrupt):
        train(before, signal_at(*stop), settings, tmp_path / "parts", meta=META, split=whole_split)
    train(after, TinyViews(), settings, tmp_path / "parts", meta=META, split=whole_split, resume=True)
    assert [progress.epoch for progress in before.begun] == first
    assert [progress.epoch for progress in after.begun] == second
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert torch.equal(whole.centre, after.centre)


def test_a_run_interrupted_again_and_again_still_equals_an_undisturbed_one(tmp_path: Path) -> None:
    train(Tiny(), TinyViews(), config(), tmp_path / "whole", meta=META)
    for step in range(1, STEPS):
        with pytest.raises(KeyboardInterrupt):
            train(Tiny(), signal_at(1, step), config(), tmp_path / "parts", meta=META, resume=True)
    train(Tiny(), TinyViews(), config(), tmp_path / "parts", meta=META, resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_signal_during_the_last_step_of_an_epoch_stops_after_that_epoch(tmp_path: Path) -> None:
    class Stops(Tiny):
        def forward(self, views: Views, draws: Tensor) -> Outcome:
            if int(views.sample_id[0]) == BATCH * (STEPS - 1):
                signal.raise_signal(signal.SIGINT)
            return super().forward(views, draws)

    with pytest.raises(KeyboardInterrupt):
        train(Stops(), TinyViews(), config(), tmp_path, meta=META)
    taken = latest_checkpoint(tmp_path)
    assert taken is not None
    assert taken.name == "epoch_0001.pt"


def test_a_signal_during_the_very_last_step_lets_the_run_finish(tmp_path: Path) -> None:
    class Stops(Tiny):
        def forward(self, views: Views, draws: Tensor) -> Outcome:
            if int(views.sample_id[0]) == BATCH * (STEPS - 1):
                signal.raise_signal(signal.SIGTERM)
            return super().forward(views, draws)

    assert train(Stops(), TinyViews(), config(epochs=1), tmp_path, meta=META).epochs == 1


def test_sigterm_takes_its_usual_course_after_the_checkpoint(tmp_path: Path) -> None:
    seen: list[str | None] = []

    def handler(number: int, frame: Any) -> None:
        latest = latest_checkpoint(tmp_path)
        seen.append(latest.name if latest else None)

    former = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(Tiny(), signal_at(1, 2, signal.SIGTERM), config(), tmp_path, meta=META)
        assert seen == ["epoch_0001_step_000002.pt"]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, former)


def test_a_second_signal_acts_at_once(tmp_path: Path) -> None:
    def twice(epoch: int, step: int) -> None:
        if (epoch, step) == (0, 2):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), TinyViews(twice), config(), tmp_path, meta=META)
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGHUP), (signal.SIGHUP, signal.SIGTERM)],
)
def test_a_session_that_ends_sends_two_signals_and_saves_all_the_same(
    first: signal.Signals, second: signal.Signals, tmp_path: Path
) -> None:
    def both(epoch: int, step: int) -> None:
        if (epoch, step) == (0, 2):
            signal.raise_signal(first)
            signal.raise_signal(second)

    former = signal.signal(first, lambda number, frame: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(Tiny(), TinyViews(both), config(), tmp_path, meta=META)
    finally:
        signal.signal(first, former)
    taken = latest_checkpoint(tmp_path)
    assert taken is not None
    assert taken.name == "epoch_0000_step_000002.pt"


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored(tmp_path: Path) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert train(Tiny(), signal_at(0, 1, signal.SIGHUP), config(), tmp_path, meta=META).epochs == 4
    finally:
        signal.signal(signal.SIGHUP, former)


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(train(Tiny(), TinyViews(), config(epochs=1), tmp_path, meta=META))
    )
    thread.start()
    thread.join()
    assert results[0].epochs == 1


def test_an_existing_run_is_not_touched_without_resume(tmp_path: Path) -> None:
    train(Tiny(), TinyViews(), config(epochs=1), tmp_path, meta=META)
    before = (tmp_path / LOG).read_bytes()
    with pytest.raises(ConfigError, match="found a run, expected a new folder; resume it"):
        train(Tiny(), TinyViews(), config(epochs=2), tmp_path, meta=META)
    assert (tmp_path / LOG).read_bytes() == before


def test_resuming_without_checkpoint_starts_from_scratch_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(Tiny(), TinyViews(), config(), tmp_path / "whole", meta=META)
    run = tmp_path / "killed"
    run.mkdir()
    (run / LOG).write_text('{"kind": "step", "epoch": 0, "step": 1}\n{"ki')
    with caplog.at_level(logging.WARNING):
        train(Tiny(), TinyViews(), config(), run, meta=META, resume=True)
    assert "no checkpoint to resume from, starting from scratch" in caplog.text
    assert_equal_runs(tmp_path / "whole", run)


def test_resuming_a_finished_run_does_nothing_but_load_it(tmp_path: Path) -> None:
    trained = Tiny()
    first = train(trained, TinyViews(), config(), tmp_path, meta=META)
    before = first.checkpoint.stat().st_mtime_ns, (tmp_path / LOG).read_bytes()
    untouched = TinyViews(lambda epoch, step: pytest.fail("a finished run was trained further"))
    loaded = Tiny()
    assert train(loaded, untouched, config(), tmp_path, meta=META, resume=True) == first
    assert (first.checkpoint.stat().st_mtime_ns, (tmp_path / LOG).read_bytes()) == before
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), loaded.parameters(), strict=True))


def test_a_run_can_be_continued_for_more_epochs(tmp_path: Path) -> None:
    train(Tiny(), TinyViews(), config(epochs=4), tmp_path / "whole", meta=META)
    train(Tiny(), TinyViews(), config(epochs=2), tmp_path / "parts", meta=META)
    train(Tiny(), TinyViews(), config(epochs=4), tmp_path / "parts", meta=META, resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_post_stage_can_be_added_to_a_finished_run_and_then_prolonged(tmp_path: Path) -> None:
    train(Tiny(), TinyViews(), config(stages=post(3)), tmp_path / "whole", meta=META)
    for settings in (config(), config(stages=post(1)), config(stages=post(3))):
        train(Tiny(), TinyViews(), settings, tmp_path / "parts", meta=META, resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "found epochs 2, expected 3"),
        ({"epochs": 1}, "found epochs 2, expected 1"),
        ({"stages": post(3, terms=("push",))}, r"found stages.post.terms \['pull'\], expected \['push'\]"),
        ({"stages": post(3, lr=0.1)}, "found stages.post.lr 0.002, expected 0.1"),
        ({"stages": post(0)}, "found 3 epochs and 0 steps done, expected at most epochs 2"),
    ],
)
def test_once_the_post_stage_has_begun_it_alone_can_be_prolonged(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings = {"epochs": 2, "stages": post(1)}
    train(Tiny(), TinyViews(), config(**settings), tmp_path, meta=META)
    with pytest.raises(CheckpointError, match=message):
        train(Tiny(), TinyViews(), config(**settings | changes), tmp_path, meta=META, resume=True)


def test_a_run_stopped_within_its_last_epoch_is_not_taken_for_one_with_fewer_epochs(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), signal_at(2, 3), config(), tmp_path, meta=META)
    with pytest.raises(CheckpointError, match="found 2 epochs and 3 steps done, expected at most epochs 2"):
        train(Tiny(), TinyViews(), config(epochs=2), tmp_path, meta=META, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.5}, "found lr 0.02, expected 0.5"),
        ({"milestones": (2,)}, r"found milestones \[3\], expected \[2\]"),
        ({"seed": 3}, "found seed 0, expected 3"),
        ({"epochs": 1}, "found 2 epochs and 0 steps done, expected at most epochs 1"),
        ({"schedule": "cosine", "epochs": 2}, "found schedule step, expected cosine"),
    ],
)
def test_resuming_under_another_schedule_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    train(Tiny(), TinyViews(), config(epochs=2), tmp_path, meta=META)
    with pytest.raises(CheckpointError, match=message):
        train(Tiny(), TinyViews(), config(**({"epochs": 4} | changes)), tmp_path, meta=META, resume=True)


def test_resuming_on_other_data_is_refused(tmp_path: Path) -> None:
    train(Tiny(), TinyViews(), config(epochs=2), tmp_path, meta=META)
    with pytest.raises(CheckpointError, match=r"abc123.*def456"):
        train(Tiny(), TinyViews(), config(), tmp_path, meta={"fingerprint": "def456"}, resume=True)
    with pytest.raises(CheckpointError, match="found steps of an epoch 7, expected 6"):
        train(Tiny(), TinyViews(steps=6), config(), tmp_path, meta=META, resume=True)


def test_resuming_another_model_is_refused(tmp_path: Path) -> None:
    train(Tiny(), TinyViews(), config(epochs=2), tmp_path, meta=META)
    other = Tiny()
    other.register_buffer("queue", torch.zeros(9, 3))
    with pytest.raises(CheckpointError, match=r"epoch_0002\.pt: found another model"):
        train(other, TinyViews(), config(), tmp_path, meta=META, resume=True)


def test_resuming_another_method_is_refused_but_the_schedule_has_its_own_rules(tmp_path: Path) -> None:
    def meta(method: str, epochs: int, lr: float = 0.1) -> dict[str, Any]:
        return META | {"method": method, "config": {"objective": {"lr": lr}, "train": {"epochs": epochs}}}

    train(Tiny(), TinyViews(), config(epochs=2), tmp_path, meta=meta("cmd", 2))
    with pytest.raises(CheckpointError, match=r"epoch_0002\.pt: found method cmd, expected pcm3pp"):
        train(Tiny(), TinyViews(), config(), tmp_path, meta=meta("pcm3pp", 4), resume=True)
    with pytest.raises(CheckpointError, match=r"found config\.objective\.lr 0\.1, expected 0\.2"):
        train(Tiny(), TinyViews(), config(), tmp_path, meta=meta("cmd", 4, 0.2), resume=True)
    assert train(Tiny(), TinyViews(), config(), tmp_path, meta=meta("cmd", 4), resume=True).epochs == 4


def test_generators_of_the_process_have_no_influence(tmp_path: Path) -> None:
    for number in (1, 2):
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number)
        objective = PCM3PP(PCM3PPConfig(encoder=GRUConfig(hidden=8), queue_size=32, feature_dim=8), seed=0)
        train(objective, PCM3PPViews(), config(epochs=2), tmp_path / str(number), meta=META)
    assert_equal_runs(tmp_path / "1", tmp_path / "2")


def test_a_precision_that_the_device_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found precision tf32 on the device cpu"):
        train(Tiny(), TinyViews(), config(precision="tf32"), tmp_path / "run", meta=META)
    assert not (tmp_path / "run").exists()


def test_a_split_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fewer training samples than batch_size 4"):
        train(Tiny(), TinyViews(steps=0), config(), tmp_path, meta=META)


@pytest.mark.parametrize("bad_step", [0, 3, 6])
def test_a_diverging_loss_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path, bad_step: int) -> None:
    class Diverges(Tiny):
        def draw(self, seed: int, epoch: int, step: int, n: int) -> Tensor:
            draws = super().draw(seed, epoch, step, n)
            return draws * float("nan") if (epoch, step) == (3, bad_step) else draws

    with pytest.raises(DivergenceError, match=rf"epoch 3, step {bad_step} of 7") as error:
        train(Diverges(), TinyViews(), config(), tmp_path, meta=META)
    assert "pull nan, push nan" in str(error.value)
    assert f"samples {[BATCH * bad_step + i for i in range(BATCH)]}" in str(error.value)
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "epoch_0002.pt"
    assert all(tensor.isfinite().all() for tensor in load_checkpoint(latest).objective.values())


@pytest.mark.parametrize(("explosion", "stops"), [(5.0, True), (0.0, False)])
def test_an_exploding_loss_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, explosion: float, stops: bool
) -> None:
    class Explodes(Tiny):
        def draw(self, seed: int, epoch: int, step: int, n: int) -> Tensor:
            return super().draw(seed, epoch, step, n) * (1000 if (epoch, step) == (3, 5) else 1)

        def forward(self, views: Views, draws: Tensor) -> Outcome:
            outcome = super().forward(views, draws)
            return replace(outcome, terms={"pull": outcome.terms["pull"] * draws.amax()})

    settings = config(explosion=explosion, lr=1e-6)
    if not stops:
        assert train(Explodes(), TinyViews(), settings, tmp_path, meta=META).epochs == 4
        return
    with pytest.raises(DivergenceError, match=rf"epoch 3, step 5 of 7 .*pull.*samples .*{BATCH * 5}, "):
        train(Explodes(), TinyViews(), settings, tmp_path, meta=META)
    assert files(tmp_path) == ["epoch_0002.pt"]


def test_the_probe_scores_the_encoder_in_its_epochs_and_after_the_last(tmp_path: Path) -> None:
    def probe(encoders: Mapping[str, Encoder]) -> dict[str, float]:
        assert encoders.keys() == {"joint"}
        encoders["joint"].eval()
        return {"norm": encoders["joint"].inner[1].weight.detach().norm().item()}

    model = Tiny()
    settings = config(epochs=5, probe_every=2)
    result = train(model, TinyViews(), settings, tmp_path / "a", meta=META, probe=probe)
    assert [line["epoch"] for line in result.curves if "probe" in line] == [1, 3, 4]
    assert result.curves[-1]["probe"]["norm"] == model.encoder.inner[1].weight.detach().norm().item()
    plain = train(Tiny(), TinyViews(), config(epochs=5), tmp_path / "b", meta=META, probe=probe)
    assert not any("probe" in line for line in plain.curves)
    assert [line["loss"] for line in plain.curves] == [line["loss"] for line in result.curves]


def test_only_parameters_that_ask_for_it_are_trained(tmp_path: Path) -> None:
    model, before = Tiny(), Tiny()
    train(model, TinyViews(), config(epochs=1), tmp_path, meta=META)
    assert torch.equal(model.twin.bias, before.twin.bias)
    assert not torch.equal(model.encoder.inner[1].weight, before.encoder.inner[1].weight)


@dataclass
class PCM3PPViews:
    """Random views of all kinds for PCM3++, a pure function of (epoch, step)."""

    before: Callable[[int, int], None] = field(default=lambda epoch, step: None)

    def __len__(self) -> int:
        return 3

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        for step in range(first_step, 3):
            self.before(epoch, step)
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            names = ("base", "key", "target", "mix", "clip")
            views = {name: torch.randn(BATCH, 8, 150, generator=generator) for name in names}
            mask = torch.rand(1, 8, 150, generator=generator) < 0.5
            views["masked"] = views["target"] * mask
            yield Views(
                views=views,
                label=torch.zeros(BATCH, dtype=torch.int64),
                sample_id=torch.arange(BATCH),
                masks={"masked": mask},
                mix_partner=torch.arange(BATCH).roll(1),
                mix_weight=torch.rand(BATCH, generator=generator),
            )


def test_pcm3pp_interrupted_and_resumed_equals_pcm3pp_undisturbed(tmp_path: Path) -> None:
    def model() -> PCM3PP:
        return PCM3PP(PCM3PPConfig(encoder=GRUConfig(hidden=8), queue_size=32, feature_dim=8), seed=0)

    stop = PCM3PPViews(lambda *position: signal.raise_signal(signal.SIGINT) if position == (1, 2) else None)
    settings = config(epochs=3)
    train(model(), PCM3PPViews(), settings, tmp_path / "whole", meta=META)
    with pytest.raises(KeyboardInterrupt):
        train(model(), stop, settings, tmp_path / "parts", meta=META)
    train(model(), PCM3PPViews(), settings, tmp_path / "parts", meta=META, resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
