"""What all objectives have in common: progress, groups, queues and streams."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from models.encoders.gru import GRUConfig
from models.objectives.objective import (
    OBJECTIVES,
    AnyObjectiveConfig,
    ParameterGroup,
    Progress,
    check_queue,
    one_stream,
)
from models.objectives.pcm3pp import PCM3PPConfig
from shards.errors import ConfigError
from tests.models.standins import Parabola, Tiny

SMALL = PCM3PPConfig(encoder=GRUConfig(hidden=8), queue_size=32, feature_dim=8)


def test_progress_runs_from_zero_to_one_over_the_steps_of_all_epochs() -> None:
    shares = [Progress(epoch, step, 4, 3).share for epoch in range(3) for step in range(4)]
    assert shares == pytest.approx([number / 12 for number in range(12)])


def test_by_default_all_trainable_parameters_are_one_group() -> None:
    assert Tiny().groups() == (
        ParameterGroup(
            tuple(f"encoders.joint.inner.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")), 1.0, True
        ),
    )


def test_by_default_an_objective_draws_nothing_has_no_queue_and_predicts_nothing() -> None:
    class Bare(Parabola):
        draw = Parabola.__base__.draw  # type: ignore[union-attr]

    objective = Bare()
    assert objective.draw(0, 0, 0, 4) is None
    assert objective.queue_age(3, 4) is None
    assert objective.predictor == ()
    assert objective.encoder is objective.encoders["joint"]


@pytest.mark.parametrize(
    ("queue", "batch", "message"),
    [
        (4, 4, "queue_size is 4, expected more than train.batch_size 4"),
        (0, 1, "queue_size is 0, expected more than train.batch_size 1"),
        (10, 4, "queue_size is 10, expected a multiple of train.batch_size 4"),
    ],
)
def test_a_queue_that_the_batch_fills_or_does_not_divide_is_refused(queue: int, batch: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_queue(queue, batch)
    with pytest.raises(ConfigError, match=message):
        SMALL.model_copy(update={"queue_size": queue}).check(batch)


def test_a_queue_of_several_batches_is_fine() -> None:
    check_queue(12, 4)
    SMALL.check(16)


def test_an_objective_of_one_encoder_takes_one_stream() -> None:
    assert one_stream("pcm3pp", ("bone",)) == "bone"
    assert list(SMALL.build(("bone",)).encoders) == ["bone"]
    for streams in ((), ("joint", "bone")):
        with pytest.raises(ConfigError, match=r"objective 'pcm3pp': found the streams .*, expected one"):
            SMALL.build(streams)


def test_options_are_found_by_their_kind_and_come_back_through_json_as_they_were() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyObjectiveConfig)
    config = SMALL.model_copy(update={"pairs": ("base", "mix"), "prediction_weight": 0.0})
    assert OBJECTIVES.find("pcm3pp") is PCM3PPConfig
    assert adapter.validate_python(config.model_dump()) == config
    assert adapter.validate_json(adapter.dump_json(config)) == config
    assert config.terms == ("base", "mix", "distill")


def test_an_unknown_objective_or_an_encoder_it_cannot_have_is_refused() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyObjectiveConfig)
    with pytest.raises(ValidationError, match=r"objective 'pcm3': found no such kind, .*nearest: pcm3pp"):
        adapter.validate_python({"kind": "pcm3"})
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_python({"kind": "pcm3pp", "encoder": {"kind": "stgcn"}})
