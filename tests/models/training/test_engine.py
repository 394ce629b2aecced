import json
import logging
import math
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from models.encoders.gru import EncoderConfig
from models.objectives.outcome import Outcome
from models.objectives.pcm3pp import PCM3PP, PCM3PPConfig
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.divergence import DivergenceError
from models.training.engine import train
from models.training.runlog import LOG, TIME_FIELDS, read_log
from models.training.schedule import PostConfig, TrainConfig, learning_rate
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError

STEPS, BATCH, WIDTH = 7, 4, 5
META = {"fingerprint": "abc123", "recipe": "pcm3"}


class Tiny(nn.Module):
    """An encoder, a queue that each step writes into, a twin without gradient, and draws that matter."""

    queue: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 3))
        self.twin = nn.Linear(WIDTH, 3).requires_grad_(False)
        for parameter in (*self.encoder[1].parameters(), *self.twin.parameters()):
            nn.init.normal_(parameter, generator=generator)
        self.register_buffer("queue", torch.randn(8, 3, generator=generator))

    def draw(self, seed: int, epoch: int, step: int, n: int) -> Tensor:
        return torch.rand(n, 1, generator=torch.Generator().manual_seed((seed * 100 + epoch) * 100 + step))

    def forward(self, views: Views, draws: Tensor) -> Outcome:
        query = self.encoder(views.views["x"] * draws)
        key = self.twin(views.views["x"])
        terms = {
            "pull": (query - key).square().mean(),
            "push": 0.1 * (query @ self.queue.clone().T).logsumexp(1).mean(),
        }
        if self.training:
            self._update(key)
        return Outcome(terms, {}, query.detach())

    @torch.no_grad()
    def _update(self, key: Tensor) -> None:
        self.queue.copy_(torch.cat([key, self.queue[:-BATCH]]))
        self.twin.weight.lerp_(self.encoder[1].weight, 0.1)


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


class Parabola(nn.Module):
    """One parameter, and a target that each step draws."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(self.encoder.weight, 2.0)

    def draw(self, seed: int, epoch: int, step: int, n: int) -> float:
        return seed + 0.1 * epoch + 0.01 * step

    def forward(self, views: Views, draws: float) -> Outcome:
        weight = self.encoder.weight.squeeze()
        terms = {"near": 0.5 * (weight - draws).square(), "far": 0.5 * weight}
        return Outcome(terms, {}, torch.eye(4, 3, dtype=torch.float64))


def test_the_steps_are_those_of_sgd_written_out(tmp_path: Path) -> None:
    settings = config(epochs=3, milestones=(1, 2), lr=0.1, weight_decay=0.01, seed=1)
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
    assert model.encoder.weight.item() == pytest.approx(weight, rel=1e-12)
    for name, values in (("loss", losses), ("norm", norms)):
        found = [line["loss"] if name == "loss" else line["metrics"]["gradient_norm"] for line in result.curves]
        assert found == pytest.approx([sum(values[i : i + STEPS]) / STEPS for i in (0, STEPS, 2 * STEPS)], rel=1e-12)
    assert [line["lr"] for line in result.curves] == pytest.approx([0.1, 0.01, 0.001])


def test_the_post_stage_sums_its_terms_at_its_rate_with_fresh_momentum(tmp_path: Path) -> None:
    settings = config(epochs=1, lr=0.1, weight_decay=0.0, post=PostConfig(epochs=2, lr=0.03, terms=("near",)))
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
    assert model.encoder.weight.item() == pytest.approx(weight, rel=1e-12)
    assert [line["loss"] for line in result.curves] == pytest.approx(
        [sum(losses[i : i + STEPS]) / STEPS for i in (0, STEPS, 2 * STEPS)], rel=1e-12
    )
    assert [line["lr"] for line in result.curves] == [0.1, 0.03, 0.03]
    assert all(line["terms"].keys() == {"near", "far"} for line in result.curves)
    assert (result.epochs, result.steps) == (3, 3 * STEPS)


def test_the_last_checkpoint_of_the_main_stage_stays_for_good(tmp_path: Path) -> None:
    settings = config(epochs=3, keep_checkpoints=1, checkpoint_every=1, post=PostConfig(epochs=3, terms=("pull",)))
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
    settings = config(post=PostConfig(epochs=1, terms=("pull", "twist")))
    with pytest.raises(ConfigError, match=r"found post.terms \['pull', 'twist'\], expected some of \['pull', 'push'\]"):
        train(model, TinyViews(), settings, tmp_path, meta=META)
    assert torch.equal(model.encoder[1].weight, before.encoder[1].weight)


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
    settings = config(post=PostConfig(epochs=2, terms=("pull",)))
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
    def post(epochs: int, **changes: Any) -> TrainConfig:
        return config(post=PostConfig(epochs=epochs, terms=("pull",)), **changes)

    train(Tiny(), TinyViews(), post(3), tmp_path / "whole", meta=META)
    for settings in (config(), post(1), post(3)):
        train(Tiny(), TinyViews(), settings, tmp_path / "parts", meta=META, resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "found epochs 2, expected 3"),
        ({"epochs": 1}, "found epochs 2, expected 1"),
        ({"post": PostConfig(epochs=3, terms=("push",))}, r"found post.terms \['pull'\], expected \['push'\]"),
        ({"post": PostConfig(epochs=3, terms=("pull",), lr=0.1)}, "found post.lr 0.002, expected 0.1"),
        ({"post": PostConfig(terms=("pull",))}, "found 3 epochs and 0 steps done, expected at most epochs 2"),
    ],
)
def test_once_the_post_stage_has_begun_it_alone_can_be_prolonged(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings = {"epochs": 2, "post": PostConfig(epochs=1, terms=("pull",))}
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
        objective = PCM3PP(PCM3PPConfig(encoder=EncoderConfig(hidden=8), queue_size=32, feature_dim=8), seed=0)
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
            return outcome._replace(terms={"pull": outcome.terms["pull"] * draws.amax()})

    settings = config(explosion=explosion, lr=1e-6)
    if not stops:
        assert train(Explodes(), TinyViews(), settings, tmp_path, meta=META).epochs == 4
        return
    with pytest.raises(DivergenceError, match=rf"epoch 3, step 5 of 7 .*pull.*samples .*{BATCH * 5}, "):
        train(Explodes(), TinyViews(), settings, tmp_path, meta=META)
    assert files(tmp_path) == ["epoch_0002.pt"]


def test_the_probe_scores_the_encoder_in_its_epochs_and_after_the_last(tmp_path: Path) -> None:
    def probe(encoder: nn.Module) -> dict[str, float]:
        encoder.eval()
        return {"norm": encoder[1].weight.detach().norm().item()}

    model = Tiny()
    settings = config(epochs=5, probe_every=2)
    result = train(model, TinyViews(), settings, tmp_path / "a", meta=META, probe=probe)
    assert [line["epoch"] for line in result.curves if "probe" in line] == [1, 3, 4]
    assert result.curves[-1]["probe"]["norm"] == model.encoder[1].weight.detach().norm().item()
    plain = train(Tiny(), TinyViews(), config(epochs=5), tmp_path / "b", meta=META, probe=probe)
    assert not any("probe" in line for line in plain.curves)
    assert [line["loss"] for line in plain.curves] == [line["loss"] for line in result.curves]


def test_only_parameters_that_ask_for_it_are_trained(tmp_path: Path) -> None:
    model, before = Tiny(), Tiny()
    train(model, TinyViews(), config(epochs=1), tmp_path, meta=META)
    assert torch.equal(model.twin.bias, before.twin.bias)
    assert not torch.equal(model.encoder[1].weight, before.encoder[1].weight)


def test_the_step_schedule_falls_at_its_milestones() -> None:
    settings = config(lr=0.02, milestones=(3, 5), gamma=0.1, epochs=9)
    rates = [learning_rate(settings, epoch, 0, 7) for epoch in range(7)]
    assert rates == pytest.approx([0.02] * 3 + [0.002] * 2 + [0.0002] * 2)
    assert learning_rate(settings, 2, 6, 7) == 0.02


def test_the_warm_up_rises_by_steps_and_the_cosine_falls_to_zero() -> None:
    settings = config(lr=1.0, schedule="cosine", epochs=6, warmup_epochs=2)
    rates = [learning_rate(settings, epoch, step, 5) for epoch in range(6) for step in range(5)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 20)) for i in range(20)])


@given(
    epochs=st.integers(1, 30),
    warmup=st.integers(0, 40),
    schedule=st.sampled_from(["step", "cosine"]),
    steps=st.integers(1, 9),
)
def test_a_rate_is_never_above_lr_or_below_zero(epochs: int, warmup: int, schedule: Any, steps: int) -> None:
    settings = config(epochs=epochs, warmup_epochs=warmup, schedule=schedule)
    rates = [learning_rate(settings, epoch, step, steps) for epoch in range(epochs) for step in range(steps)]
    assert all(0 <= rate <= settings.lr * (1 + 1e-12) for rate in rates)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"lr": 0},
        {"momentum": 1.0},
        {"schedule": "linear"},
        {"unknown": 1},
        {"checkpoint_every": 0},
        {"explosion": 0.5},
        {"explosion": -1},
        {"explosion": math.inf},
        {"explosion": math.nan},
        {"precision": "float16"},
        {"post": {"terms": ()}},
        {"post": {"epochs": -1}},
    ],
)
def test_values_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig(**changes)


def test_the_defaults_are_the_published_schedule() -> None:
    settings = TrainConfig()
    assert (settings.epochs, settings.batch_size, settings.lr, settings.momentum) == (451, 128, 0.02, 0.9)
    assert [learning_rate(settings, epoch, 0, 10) for epoch in (0, 350, 351, 450)] == pytest.approx(
        [0.02, 0.02, 0.002, 0.002]
    )


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
        return PCM3PP(PCM3PPConfig(encoder=EncoderConfig(hidden=8), queue_size=32, feature_dim=8), seed=0)

    stop = PCM3PPViews(lambda *position: signal.raise_signal(signal.SIGINT) if position == (1, 2) else None)
    settings = config(epochs=3)
    train(model(), PCM3PPViews(), settings, tmp_path / "whole", meta=META)
    with pytest.raises(KeyboardInterrupt):
        train(model(), stop, settings, tmp_path / "parts", meta=META)
    train(model(), PCM3PPViews(), settings, tmp_path / "parts", meta=META, resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
