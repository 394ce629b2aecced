from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from models.encoders.gru import EncoderConfig, GRUEncoder
from models.evaluation.linear import LinearConfig, linear_evaluation
from shards.batch import Views
from shards.errors import ConfigError

CLASSES, WIDTH = 4, 6


class LastFrame(nn.Module):
    """Passes its input on, and counts the samples it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = 0

    def forward(self, x: Tensor) -> Tensor:
        self.samples += len(x)
        return x


@dataclass
class Split:
    """Gaussian classes around random centres; in each epoch the noise is another when `jitter` is set."""

    samples: int
    batch: int = 32
    noise: float = 0.1
    seed: int = 0
    jitter: float = 0.0
    width: int = WIDTH
    label: Callable[[Tensor], Tensor] = field(default=lambda number: number % CLASSES)

    def __len__(self) -> int:
        return -(-self.samples // self.batch)

    def arrays(self) -> tuple[Tensor, Tensor]:
        number = torch.arange(self.samples)
        centres = torch.randn(CLASSES, self.width, generator=torch.Generator().manual_seed(99))
        noise = torch.randn(self.samples, self.width, generator=torch.Generator().manual_seed(self.seed))
        return centres[number % CLASSES] + self.noise * noise, self.label(number)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        x, label = self.arrays()
        generator = torch.Generator().manual_seed(epoch)
        x = x + self.jitter * torch.randn(x.shape, generator=generator)
        for rows in torch.randperm(self.samples, generator=generator).split(self.batch):
            yield Views({"x": x[rows, None].expand(-1, 3, -1)}, label[rows], rows)

    def once(self) -> Iterator[Views]:
        return self.epoch(0)


def config(**changes: Any) -> LinearConfig:
    return LinearConfig(**({"epochs": 12, "batch_size": 32, "milestones": (8, 10)} | changes))


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_separable_classes_are_separated(crop: str) -> None:
    result = linear_evaluation(LastFrame(), Split(240), Split(80, seed=1).once, config(crop=crop), CLASSES)
    assert result.last == 1.0
    assert result.best == 1.0
    assert result.per_class == (1.0,) * CLASSES
    assert len(result.curve) == 12
    assert result.crop == crop


def test_overlapping_classes_are_told_apart_as_well_as_by_logistic_regression() -> None:
    train, test = Split(1200, noise=1.0), Split(800, noise=1.0, seed=1)
    (x, y), (xt, yt) = ((a.numpy(), b.numpy()) for a, b in (train.arrays(), test.arrays()))
    reference = LogisticRegression(C=np.inf, max_iter=1000).fit(x, y).score(xt, yt)
    result = linear_evaluation(
        LastFrame(), train, test.once, config(epochs=40, milestones=(20, 30), crop="centre"), CLASSES
    )
    assert 0.5 < reference < 0.95
    assert result.last == pytest.approx(reference, abs=0.01)


def test_the_layer_is_that_of_sgd_written_out() -> None:
    train, test = Split(40, batch=16, noise=1.0), Split(60, noise=1.0, seed=1)
    settings = config(epochs=4, milestones=(1, 3), lr=0.3, weight_decay=0.01, seed=5)
    weight = nn.init.normal_(torch.empty(CLASSES, WIDTH), std=0.01, generator=torch.Generator().manual_seed(5))
    bias = torch.zeros(CLASSES)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    x, label = test.arrays()
    expected = []
    for epoch in range(4):
        for batch in train.epoch(epoch):
            z = batch.views["x"][:, -1]
            error = (z @ weight.T + bias).softmax(1) - F.one_hot(batch.label, CLASSES)
            gradients = [error.T @ z / len(z), error.mean(0)]
            for i, parameter in enumerate((weight, bias)):
                velocity[i] = 0.9 * velocity[i] + gradients[i] + 0.01 * parameter
                parameter -= (0.3, 0.03, 0.03, 0.003)[epoch] * velocity[i]
        expected.append(((x @ weight.T + bias).argmax(1) == label).float().mean().item())
    result = linear_evaluation(LastFrame(), train, test.once, settings, CLASSES)
    assert result.curve == pytest.approx(expected)
    assert len(set(result.curve)) > 1


def test_last_and_best_are_told_apart() -> None:
    # the labels of the last epochs are wrong, so that the best epoch is an early one
    class Spoiled(Split):
        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
            for views in super().epoch(epoch, first_step):
                label = views.label if epoch < 3 else (views.label + 1) % CLASSES
                yield Views(views.views, label, views.sample_id)

    result = linear_evaluation(LastFrame(), Spoiled(240), Split(80).once, config(milestones=()), CLASSES)
    assert result.last == result.curve[-1] == 0.0
    assert result.best == max(result.curve) == 1.0
    assert result.best_epoch == result.curve.index(1.0) <= 3


def test_the_random_crop_is_encoded_in_every_epoch_and_the_centre_crop_once() -> None:
    for crop, passes in [("random", 12), ("centre", 1)]:
        encoder = LastFrame()
        linear_evaluation(encoder, Split(40, jitter=0.1), Split(20).once, config(crop=crop), CLASSES)
        assert encoder.samples == 40 * passes + 20


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_the_encoder_is_the_same_to_the_bit_afterwards(crop: str) -> None:
    torch.manual_seed(0)
    encoder = GRUEncoder(EncoderConfig(hidden=4, layers=1)).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    splits = Split(40, width=150), Split(20, width=150)
    linear_evaluation(encoder, splits[0], splits[1].once, config(epochs=2, crop=crop), CLASSES)
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(part.training for part in encoder.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_equal_seeds_give_equal_results_whatever_the_global_generator(crop: str) -> None:
    results = []
    for state, seed in [(1, 0), (2, 0), (1, 3)]:
        torch.manual_seed(state)
        settings = config(epochs=3, lr=0.01, crop=crop, seed=seed)
        results.append(linear_evaluation(LastFrame(), Split(96, noise=2), Split(500, noise=2).once, settings, CLASSES))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_classes_without_test_samples_have_no_accuracy() -> None:
    test = Split(30, label=lambda number: number * 0 + 1)
    result = linear_evaluation(LastFrame(), Split(240), test.once, config(epochs=1), CLASSES + 2)
    assert [value is None for value in result.per_class] == [True, False, True, True, True, True]


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_labels_out_of_range_are_refused(crop: str) -> None:
    good, bad = Split(40), Split(40, label=lambda number: number % 7)
    with pytest.raises(ConfigError, match=r"training split: found labels .*\.\.6, expected them in 0\.\.3"):
        linear_evaluation(LastFrame(), bad, good.once, config(crop=crop), CLASSES)
    with pytest.raises(ConfigError, match=r"test split: found labels 0\.\.6"):
        linear_evaluation(LastFrame(), good, bad.once, config(crop=crop), CLASSES)


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_an_empty_split_is_refused(crop: str) -> None:
    for splits in [(Split(0), Split(4)), (Split(4), Split(0))]:
        with pytest.raises(ConfigError, match="found no"):
            linear_evaluation(LastFrame(), splits[0], splits[1].once, config(crop=crop), CLASSES)


def test_the_defaults_are_the_published_setting() -> None:
    settings = LinearConfig()
    assert (settings.epochs, settings.batch_size, settings.lr, settings.momentum) == (100, 1024, 0.1, 0.9)
    assert (settings.milestones, settings.weight_decay, settings.crop) == ((20, 50, 80), 0.0, "random")


@pytest.mark.parametrize("changes", [{"crop": "full"}, {"epochs": 0}, {"lr": -1}, {"unknown": 1}])
def test_values_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LinearConfig(**changes)
