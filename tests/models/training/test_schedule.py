"""Rates by stage, epoch and step against torch's schedulers and formulas, and which options may change on a resume."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.objectives.objective import Progress
from models.training.checkpoint import Header
from models.training.schedule import Stage, TrainConfig, check_schedule, count_plateaus, learning_rate
from shards.errors import CheckpointError

STEPS = 7


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**({"epochs": 4, "batch_size": 4, "milestones": (3,)} | changes))


def rates(settings: TrainConfig, losses: tuple[float, ...] = ()) -> list[list[float]]:
    """Of every step, by epoch."""
    return [
        [learning_rate(settings, epoch, step, STEPS, losses) for step in range(STEPS)]
        for epoch in range(settings.total_epochs)
    ]


def first_rates(settings: TrainConfig, losses: tuple[float, ...] = ()) -> list[float]:
    """Of every epoch, which has one rate."""
    by_epoch = rates(settings, losses)
    assert all(len(set(epoch)) == 1 for epoch in by_epoch)
    return [epoch[0] for epoch in by_epoch]


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
    schedule=st.sampled_from(["step", "cosine", "plateau"]),
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
        {"optimizer": {"kind": "sgd", "momentum": 1.0}},
        {"optimizer": {"kind": "sgd", "betas": (0.9, 0.99)}},
        {"optimizer": {"kind": "lion"}},
        {"schedule": "linear"},
        {"unknown": 1},
        {"checkpoint_every": 0},
        {"explosion": 0.5},
        {"explosion": -1},
        {"explosion": math.inf},
        {"explosion": math.nan},
        {"precision": "float16"},
        {"stages": ({"name": "post", "terms": ()},)},
        {"stages": ({"name": "post", "epochs": -1},)},
        {"stages": ({"name": "main", "epochs": 1},)},
        {"stages": ({"name": "post"}, {"name": "post"})},
        {"stages": ({"name": "Post-1"},)},
        {"lr": 0.1, "min_lr": 0.2},
        {"lr": 10.0, "optimizer": {"kind": "adamw", "weight_decay": 0.1}},
        {"patience": 0},
        {"clip": 0.0},
        {"clip_scope": "layer"},
    ],
)
def test_values_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig(**changes)


def test_the_defaults_are_the_published_schedule() -> None:
    settings = TrainConfig()
    assert (settings.optimizer.kind, settings.optimizer.weight_decay) == ("sgd", 1e-4)
    assert (settings.epochs, settings.batch_size, settings.lr, settings.optimizer.momentum) == (451, 128, 0.02, 0.9)
    assert [learning_rate(settings, epoch, 0, 10) for epoch in (0, 350, 351, 450)] == pytest.approx(
        [0.02, 0.02, 0.002, 0.002]
    )


def test_the_cosine_ends_at_the_lowest_rate_and_rises_to_none_above_it() -> None:
    settings = config(lr=0.5, min_lr=0.1, schedule="cosine", epochs=4)
    flat = [rate for epoch in rates(settings) for rate in epoch]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4 * STEPS, eta_min=0.1)
    for rate in flat:
        assert rate == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()
    assert theirs.get_last_lr()[0] == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize("schedule", ["step", "plateau"])
def test_after_the_warm_up_the_rate_is_as_without_it(schedule: Any) -> None:
    settings = config(lr=1.0, schedule=schedule, warmup_epochs=2, epochs=6, milestones=(4,), patience=2)
    losses = (5.0, 4.0, 3.0, 3.0, 3.0, 3.0)
    found = rates(settings, losses)
    rising = [rate for epoch in found[:2] for rate in epoch]
    assert rising == pytest.approx([(i + 1) / (2 * STEPS) for i in range(2 * STEPS)])
    assert found[2:] == rates(settings.model_copy(update={"warmup_epochs": 0}), losses)[2:]


@given(
    losses=st.lists(st.floats(0.1, 10) | st.sampled_from([1.0, 0.99995, 0.9998]), min_size=1, max_size=60),
    patience=st.integers(1, 6),
    lowest=st.sampled_from([0.0, 0.003]),
)
def test_a_plateau_is_that_of_torch(losses: list[float], patience: int, lowest: float) -> None:
    settings = config(
        epochs=len(losses) + 1, schedule="plateau", patience=patience, gamma=0.3, lr=0.1, min_lr=lowest, milestones=()
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    # torch waits for one epoch more than its patience
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.3, patience=patience - 1, threshold=1e-4, min_lr=lowest, eps=0
    )
    expected = [0.1]
    for loss in losses:
        theirs.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    assert first_rates(settings, tuple(losses)) == pytest.approx(expected, rel=1e-12)


def test_a_plateau_counts_anew_after_each_fall() -> None:
    assert [count_plateaus([1.0] * n, 2) for n in range(8)] == [0, 0, 0, 1, 1, 2, 2, 3]
    assert count_plateaus([3.0, 2.0, 2.0, 1.0, 1.0], 2) == 0


def test_losses_of_epochs_to_come_play_no_part_in_a_plateau() -> None:
    settings = config(schedule="plateau", patience=1, gamma=0.1, lr=0.1)
    losses = [1.0, 1.0, 1.0, 1.0]
    expected = [learning_rate(settings, epoch, 0, STEPS, losses[:epoch]) for epoch in range(4)]
    assert [learning_rate(settings, epoch, 0, STEPS, losses) for epoch in range(4)] == expected
    assert expected == pytest.approx([0.1, 0.1, 0.01, 0.001])


LATER = (
    Stage(name="left-out", lr=0.7, terms=("none",)),
    Stage(name="flat", epochs=2, lr=0.5, terms=("a",)),
    Stage(name="falls", epochs=3, lr=0.4, schedule="cosine", fresh=False),
)


def test_stages_follow_one_another_and_one_without_epochs_is_left_out() -> None:
    settings = config(epochs=3, stages=LATER)
    assert settings.total_epochs == 8
    assert settings.ends == (3, 3, 5, 8)
    names = [None if stage is None else stage.name for stage in (settings.stage(epoch) for epoch in range(8))]
    assert names == [None, None, None, "flat", "flat", "falls", "falls", "falls"]
    assert [settings.loss_terms(epoch) for epoch in (2, 3, 4, 5)] == [None, ("a",), ("a",), None]
    assert [epoch for epoch in range(1, 9) if settings.stays(epoch)] == [3, 5, 8]


def test_progress_tells_stage_and_share_of_the_whole_run() -> None:
    settings = config(epochs=3, stages=LATER)
    assert settings.progress(2, 6, STEPS) == Progress(2, 6, STEPS, 8, "main", 0)
    assert settings.progress(3, 0, STEPS) == Progress(3, 0, STEPS, 8, "flat", 3)
    assert settings.progress(7, 1, STEPS) == Progress(7, 1, STEPS, 8, "falls", 5)
    assert settings.progress(7, 1, STEPS).share == pytest.approx((7 * STEPS + 1) / (8 * STEPS))


def test_a_stage_has_its_own_rate_flat_or_falling_to_zero_at_its_end() -> None:
    found = rates(config(epochs=3, milestones=(), lr=0.2, stages=LATER))
    assert found[:5] == [[0.2] * STEPS] * 3 + [[0.5] * STEPS] * 2
    falling = [rate for epoch in found[5:] for rate in epoch]
    assert falling == pytest.approx([0.4 * 0.5 * (1 + math.cos(math.pi * i / 21)) for i in range(21)])


@pytest.mark.parametrize("schedule", ["step", "cosine", "plateau"])
def test_a_stage_with_the_main_schedule_goes_on_as_if_the_main_stage_were_longer(schedule: Any) -> None:
    options: dict[str, Any] = {"schedule": schedule, "milestones": (3, 5), "patience": 1, "lr": 0.3, "min_lr": 1e-3}
    on = (Stage(name="none"), Stage(name="on", epochs=3, schedule="main", lr=9.0, terms=("a",)))
    losses = (3.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    found = rates(config(epochs=3, stages=on, **options), losses)
    assert found == rates(config(epochs=6, **options), losses)
    assert len({rate for epoch in found for rate in epoch}) > 2


def test_a_cosine_does_not_go_on_after_a_stage_with_its_own_schedule() -> None:
    stages = (Stage(name="flat", epochs=1), Stage(name="on", epochs=1, schedule="main"))
    with pytest.raises(ValidationError, match="found a stage with the schedule main after one with its own"):
        config(schedule="cosine", stages=stages)
    assert config(schedule="cosine", stages=stages[::-1]).main_epochs == 5
    assert config(schedule="step", stages=stages).main_epochs == 4


def test_the_decay_of_a_stage_is_checked_only_where_the_stage_has_its_own_rate() -> None:
    optimizer = {"kind": "sgd", "weight_decay": 1.0}
    for stage, fine in (
        ({"epochs": 1, "lr": 1.0}, False),
        ({"epochs": 0, "lr": 1.0}, True),
        ({"epochs": 1, "lr": 1.0, "schedule": "main"}, True),
    ):
        if fine:
            config(optimizer=optimizer, stages=({"name": "post"} | stage,))
        else:
            with pytest.raises(ValidationError, match="lr 1 times weight_decay 1 is 1, expected less than 1"):
                config(optimizer=optimizer, stages=({"name": "post"} | stage,))


def header(settings: TrainConfig, steps: int) -> Header:
    """Of a run under these settings after so many steps."""
    return Header(epoch=steps // STEPS, step=steps, epoch_steps=STEPS, config=settings.model_dump(mode="json"), meta={})


def stages(**epochs: int) -> tuple[Stage, ...]:
    kinds: dict[str, dict[str, Any]] = {
        "flat": {},
        "falls": {"schedule": "cosine"},
        "on": {"schedule": "main"},
        "last": {"terms": ("a",)},
    }
    return tuple(Stage(name=name, epochs=count, **kinds[name]) for name, count in epochs.items())


@pytest.mark.parametrize(
    ("done", "before", "after"),
    [
        # in the main stage: its length, and all stages to come
        (2, {}, {"epochs": 9}),
        (2, {}, {"epochs": 2, "stages": stages(flat=2)}),
        (4, {"stages": stages(flat=2)}, {"epochs": 4, "stages": stages(falls=5)}),
        (4, {}, {"stages": stages(on=5)}),
        (4, {"schedule": "cosine"}, {"schedule": "cosine", "stages": stages(flat=1)}),
        (2, {"schedule": "cosine", "stages": stages(on=2)}, {"schedule": "cosine", "stages": stages(on=2, falls=1)}),
        # in a later one: its length where the rates so far do not depend on it, and all stages after it
        (5, {"stages": stages(flat=1)}, {"stages": stages(flat=3)}),
        (6, {"stages": stages(flat=2, last=1)}, {"stages": stages(flat=3, falls=5)}),
        (6, {"stages": stages(on=2)}, {"stages": stages(on=9, last=1)}),
        (6, {"stages": stages(falls=2)}, {"stages": stages(falls=2, flat=1)}),
        (7, {"stages": stages(flat=2, last=1)}, {"stages": stages(flat=2, last=4)}),
        # what only decides which files a run writes
        (3, {}, {"checkpoint_every": 1, "probe_every": 2, "log_every": 3, "keep_every": 4, "explosion": 0.0}),
    ],
)
def test_a_run_goes_on_under_options_that_would_have_led_to_where_it_is(
    done: int, before: dict[str, Any], after: dict[str, Any]
) -> None:
    check_schedule(Path("epoch.pt"), header(config(**before), done * STEPS), config(**after), STEPS)
    was, now = config(**before), config(**after)
    losses = tuple(1 / (epoch + 1) for epoch in range(20))
    assert rates(was, losses)[:done] == rates(now, losses)[:done]
    assert [was.loss_terms(epoch) for epoch in range(done)] == [now.loss_terms(epoch) for epoch in range(done)]


@pytest.mark.parametrize(
    ("done", "before", "after", "message"),
    [
        (2, {}, {"lr": 0.1}, "found lr 0.02, expected 0.1"),
        (2, {}, {"clip": 1.0}, "found clip None, expected 1.0"),
        (2, {}, {"optimizer": {"kind": "adam"}}, "found optimizer {.*sgd.*}, expected {.*adam.*}"),
        (5, {"epochs": 5}, {}, "found 5 epochs and 0 steps done, expected at most epochs 4"),
        # a cosine reaches its end with the main stage and those that go on with it
        (2, {"schedule": "cosine"}, {"schedule": "cosine", "epochs": 5}, "found epochs 4, expected 5"),
        (
            2,
            {"schedule": "cosine"},
            {"schedule": "cosine", "stages": stages(on=3)},
            "found epochs with the main schedule 4, expected 7",
        ),
        (
            5,
            {"schedule": "cosine", "stages": stages(on=2)},
            {"schedule": "cosine", "stages": stages(on=3)},
            "found epochs with the main schedule 6, expected 7",
        ),
        # stages that have begun
        (5, {"stages": stages(flat=2)}, {"epochs": 5, "stages": stages(flat=2)}, "found epochs 4, expected 5"),
        (5, {"stages": stages(falls=2)}, {"stages": stages(falls=3)}, "found stages.falls.epochs 2, expected 3"),
        (5, {"stages": stages(flat=2)}, {"stages": stages(last=2)}, "found stages.last.fresh None, expected True"),
        (7, {"stages": stages(flat=2, last=2)}, {"stages": stages(flat=1, last=3)}, "found stages.flat.epochs 2, exp"),
        (7, {"stages": stages(flat=2, last=2)}, {"stages": stages(last=4)}, "found stages.last.epochs None, expected"),
        (6, {"stages": stages(flat=2)}, {"stages": stages(flat=1)}, "found 6 epochs and 0 steps done, expected at mo"),
        (6, {"stages": stages(flat=2)}, {}, "found 6 epochs and 0 steps done, expected at most epochs 4"),
    ],
)
def test_options_with_which_the_run_so_far_would_have_been_another_are_refused(
    done: int, before: dict[str, Any], after: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_schedule(Path("epoch.pt"), header(config(**before), done * STEPS), config(**after), STEPS)


def test_a_step_into_a_stage_it_has_begun() -> None:
    before, changed = config(stages=stages(flat=2)), config(epochs=5, stages=stages(flat=2))
    check_schedule(Path("epoch.pt"), header(before, 4 * STEPS), changed, STEPS)
    with pytest.raises(CheckpointError, match="found epochs 4, expected 5"):
        check_schedule(Path("epoch.pt"), header(before, 4 * STEPS + 1), changed, STEPS)
