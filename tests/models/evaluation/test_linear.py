import math
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

from models.encoders.gru import GRUConfig, GRUEncoder
from models.evaluation.features import Features, extract_features
from models.evaluation.heads import LinearHead
from models.evaluation.linear import EncodedViews, LinearConfig, LinearResult, linear_evaluation, score
from models.training.divergence import DivergenceError
from models.training.optimizers import SGDConfig
from shards.batch import Views
from shards.errors import ConfigError, SkelstreamError
from tests.models.standins import Frames

CLASSES, WIDTH = 4, 6


class LastFrame(Frames):
    """Passes its input on, and counts the samples it sees."""

    samples = 0

    def encode(self, x_NTD: Tensor) -> Tensor:
        self.samples += len(x_NTD)
        return x_NTD


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

    def features(self) -> Features:
        """What `LastFrame` makes of the split."""
        return extract_features(LastFrame(), self.epoch(0))


def config(**changes: Any) -> LinearConfig:
    return LinearConfig(**({"epochs": 12, "batch_size": 32, "milestones": (8, 10)} | changes))


def evaluate(train: Split, test: Split, settings: LinearConfig, classes: int = CLASSES, **options: Any) -> LinearResult:
    """The evaluation of `LastFrame`, in the way that the crop asks for."""
    source = EncodedViews(LastFrame(), train) if settings.crop == "random" else train.features()
    return linear_evaluation(source, test.features(), settings, classes, **options)


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_separable_classes_are_separated(crop: str) -> None:
    result = evaluate(Split(240), Split(80, seed=1), config(crop=crop))
    assert result.last == 1.0
    assert result.best == 1.0
    assert result.per_class == (1.0,) * CLASSES
    assert len(result.curve) == 12
    assert result.crop == crop


def test_overlapping_classes_are_told_apart_as_well_as_by_logistic_regression() -> None:
    train, test = Split(1200, noise=1.0), Split(800, noise=1.0, seed=1)
    (x, y), (xt, yt) = ((a.numpy(), b.numpy()) for a, b in (train.arrays(), test.arrays()))
    reference = LogisticRegression(C=np.inf, max_iter=1000).fit(x, y).score(xt, yt)
    result = evaluate(train, test, config(epochs=40, milestones=(20, 30), crop="centre"))
    assert 0.5 < reference < 0.95
    assert result.last == pytest.approx(reference, abs=0.01)


Batches = Iterator[tuple[Tensor, Tensor]]


def written_out(
    settings: LinearConfig, batches: Callable[[int], Batches], test: tuple[Tensor, Tensor], *, decay: float = 0.0
) -> tuple[list[float], Tensor, Tensor, Tensor]:
    """SGD with momentum by the gradient of the cross entropy: curve, last logits, weight and bias."""
    generator = torch.Generator().manual_seed(settings.seed)
    weight = nn.init.normal_(torch.empty(CLASSES, WIDTH), std=settings.init_std, generator=generator)
    bias = torch.zeros(CLASSES)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    mean, var = torch.zeros(WIDTH), torch.ones(WIDTH)
    x, label = test
    curve = []
    for epoch in range(settings.epochs):
        drawn = list(batches(epoch))
        for step, (z, y) in enumerate(drawn):
            rate = written_out_rate(settings, epoch, step, len(drawn))
            if settings.batch_norm:
                if len(z) == 1:
                    continue
                mean, var = 0.9 * mean + 0.1 * z.mean(0), 0.9 * var + 0.1 * z.var(0)
                z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-6).sqrt()
            share = settings.label_smoothing
            target = (1 - share) * F.one_hot(y, CLASSES) + share / CLASSES
            error = (z @ weight.T + bias).softmax(1) - target
            gradients = [error.T @ z / len(z), error.mean(0)]
            for i, parameter in enumerate((weight, bias)):
                velocity[i] = 0.9 * velocity[i] + gradients[i] + decay * parameter
                parameter -= rate * velocity[i]
        seen = (x - mean) / (var + 1e-6).sqrt() if settings.batch_norm else x
        curve.append(((seen @ weight.T + bias).argmax(1) == label).float().mean().item())
    return curve, seen @ weight.T + bias, weight, bias


def written_out_rate(settings: LinearConfig, epoch: int, step: int, steps: int) -> float:
    done = epoch * steps + step
    warm, last = settings.warmup_epochs * steps, settings.epochs * steps
    if done < warm:
        return settings.lr * (done + 1) / warm
    if settings.schedule == "cosine":
        fall = settings.lr - settings.min_lr
        return settings.min_lr + fall * (1 + math.cos(math.pi * (done - warm) / (last - warm))) / 2
    rate = settings.lr
    for milestone in settings.milestones:
        rate *= 0.1 if epoch >= milestone else 1
    return rate


@pytest.mark.parametrize("crop", ["random", "centre"])
@pytest.mark.parametrize(
    ("samples", "decay", "changes"),
    [
        # 40 samples in batches of 16: the last batch of an epoch is smaller
        (40, 0.01, {"epochs": 4, "lr": 0.3}),
        (40, 0.0, {"epochs": 5, "lr": 0.3, "label_smoothing": 0.3, "warmup_epochs": 2, "init_std": 0.5}),
        (40, 0.0, {"epochs": 5, "lr": 0.3, "schedule": "cosine", "min_lr": 0.01, "warmup_epochs": 1}),
        # 33: the last batch is a single sample, of which a batch norm has no statistics
        (33, 0.0, {"epochs": 4, "lr": 0.3, "batch_norm": True}),
    ],
    ids=["decay", "smoothing", "cosine", "norm"],
)
def test_the_layer_is_that_of_sgd_written_out(crop: str, samples: int, decay: float, changes: dict[str, Any]) -> None:
    train, test = Split(samples, batch=16, noise=1.0), Split(60, noise=1.0, seed=1)
    changes = changes | {"optimizer": SGDConfig(weight_decay=decay)}
    settings = config(**changes, batch_size=16, milestones=(1, 3), seed=5, crop=crop)
    stored = train.features()

    def drawn(epoch: int) -> Batches:
        return ((batch.views["x"][:, -1], batch.label) for batch in train.epoch(epoch))

    def kept(epoch: int) -> Batches:
        order = torch.randperm(samples, generator=torch.Generator().manual_seed((5 << 32) + epoch))
        return ((stored.values[rows], stored.label[rows]) for rows in order.split(16))

    scored = test.features()
    batches = drawn if crop == "random" else kept
    curve, logits, weight, bias = written_out(settings, batches, (scored.values, scored.label), decay=decay)
    result = evaluate(train, test, settings)
    assert result.curve == pytest.approx(curve)
    assert len(set(result.curve)) > 1
    torch.testing.assert_close(result.logits, logits)
    torch.testing.assert_close(result.head.linear.weight, weight)
    torch.testing.assert_close(result.head.linear.bias, bias)


def test_the_default_setting_is_that_of_torch_to_the_bit() -> None:
    train, test, settings = Split(40, batch=16, noise=1.0), Split(60, noise=1.0, seed=1), config(epochs=6)
    head = nn.Linear(WIDTH, CLASSES)
    nn.init.normal_(head.weight, std=0.01, generator=torch.Generator().manual_seed(settings.seed))
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), settings.lr, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(settings.milestones))
    for epoch in range(settings.epochs):
        for batch in train.epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(head(batch.views["x"][:, -1]), batch.label).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    result = evaluate(train, test, settings)
    assert torch.equal(result.head.linear.weight, head.weight)
    assert torch.equal(result.head.linear.bias, head.bias)


def test_every_so_many_epochs_are_scored_and_the_last_in_any_case() -> None:
    train, test = Split(96, noise=2), Split(200, noise=2, seed=1)
    every, some = (evaluate(train, test, config(epochs=8, lr=0.01, score_every=n)) for n in (1, 3))
    assert every.scored_epochs == tuple(range(8))
    assert some.scored_epochs == (2, 5, 7)
    assert some.curve == tuple(every.curve[epoch] for epoch in some.scored_epochs)
    assert some.best_epoch in some.scored_epochs


def test_a_batch_norm_of_single_samples_has_nothing_to_learn_from() -> None:
    settings = config(batch_norm=True, batch_size=1, crop="centre")
    with pytest.raises(ConfigError, match="found no training batch, expected at least one of 2 samples"):
        evaluate(Split(8), Split(20), settings)


def test_features_are_left_as_they_are() -> None:
    train, test = Split(40).features(), Split(20).features()
    before = [values.clone() for values in (train.values, test.values)]
    linear_evaluation(train, test, config(crop="centre"), CLASSES)
    assert torch.equal(train.values, before[0])
    assert torch.equal(test.values, before[1])


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_the_logits_are_those_of_the_last_epoch_and_of_the_head_that_comes_with_them(crop: str) -> None:
    test = Split(50, noise=1.0, seed=1)
    result = evaluate(Split(96, noise=1.0), test, config(crop=crop, epochs=3))
    features = test.features()
    assert result.logits.shape == (50, CLASSES)
    assert torch.equal(result.logits, score(result.head, features.values))
    assert not result.logits.requires_grad
    assert result.last == (result.logits.argmax(1) == features.label).sum().item() / 50


def test_an_epoch_is_chosen_on_the_validation_split_not_on_the_test_split() -> None:
    # classes rotated by one: who is right there is wrong on the test split
    turned = Split(80, seed=2, label=lambda number: (number + 1) % CLASSES)
    train, test = Split(96, noise=1.0), Split(200, noise=1.0, seed=1)
    settings = config(crop="centre", lr=0.01, milestones=())
    plain = evaluate(train, test, settings)
    assert (plain.chosen, plain.chosen_epoch, plain.validation_curve) == (None, None, None)
    result = evaluate(train, test, settings, validation=turned.features())
    assert result.curve == plain.curve
    assert result.validation_curve is not None
    assert len(set(result.validation_curve)) > 1
    assert result.chosen_epoch == result.validation_curve.index(max(result.validation_curve))
    assert result.chosen == result.curve[result.chosen_epoch] < result.best


def test_the_crop_decides_what_is_trained_on() -> None:
    train, test = Split(40), Split(20).features()
    with pytest.raises(ConfigError, match="features that were extracted once, expected crop 'centre', not 'random'"):
        linear_evaluation(train.features(), test, config(crop="random"), CLASSES)
    with pytest.raises(ConfigError, match="encoded in every epoch, expected crop 'random', not 'centre'"):
        linear_evaluation(EncodedViews(LastFrame(), train), test, config(crop="centre"), CLASSES)


def test_features_of_unequal_width_are_refused() -> None:
    wide, test = Split(40, width=9), Split(20).features()
    sources: dict[str, Features | EncodedViews] = {
        "centre": wide.features(),
        "random": EncodedViews(LastFrame(), wide),
    }
    for crop, train in sources.items():
        with pytest.raises(ConfigError, match="training split: found features 9 wide, expected 6 as in the test"):
            linear_evaluation(train, test, config(crop=crop), CLASSES)
    with pytest.raises(ConfigError, match="validation split: found features 9 wide"):
        linear_evaluation(
            Split(40).features(), test, config(crop="centre"), CLASSES, validation=Split(8, width=9).features()
        )


def test_a_rate_that_leads_to_infinity_is_told() -> None:
    settings = config(crop="centre", milestones=()).model_copy(update={"lr": 1e38})  # which no option gives
    with pytest.raises(
        DivergenceError, match=r"linear, centre crop, epoch 0, step 1 .*: found the loss inf, .*: lower the"
    ):
        evaluate(Split(240), Split(40), settings)
    with pytest.raises(SkelstreamError, match=r"NaN or infinity in the logits after epoch \d+, .* lower the rate"):
        evaluate(Split(32), Split(40), settings)


def test_the_random_crop_reads_the_layer_that_is_asked_for() -> None:
    torch.manual_seed(0)
    encoder = GRUEncoder(GRUConfig(hidden=4, layers=2))
    train, test = Split(40, width=150), Split(20, width=150)
    settings = config(epochs=2, crop="random")
    results = {}
    for layer in ("last", "layer2", "layer1"):
        features = extract_features(encoder, test.epoch(0), layer=layer)
        results[layer] = linear_evaluation(EncodedViews(encoder, train, layer), features, settings, CLASSES)
    assert torch.equal(results["last"].logits, results["layer2"].logits)
    assert not torch.equal(results["last"].logits, results["layer1"].logits)


def test_the_head_begins_as_published_whatever_the_global_generator() -> None:
    torch.manual_seed(1)
    first = LinearHead(2048, 60, seed=3).linear
    torch.manual_seed(2)
    again, other = LinearHead(2048, 60, seed=3).linear, LinearHead(2048, 60, seed=4).linear
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert first.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not first.bias.any()


def test_last_and_best_are_told_apart() -> None:
    # the labels of the last epochs are wrong, so that the best epoch is an early one
    class Spoiled(Split):
        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
            for views in super().epoch(epoch, first_step):
                label = views.label if epoch < 3 else (views.label + 1) % CLASSES
                yield Views(views.views, label, views.sample_id)

    result = evaluate(Spoiled(240), Split(80), config(milestones=()))
    assert result.last == result.curve[-1] == 0.0
    assert result.best == max(result.curve) == 1.0
    assert result.best_epoch == result.curve.index(1.0) <= 3


def test_the_random_crop_is_encoded_in_every_epoch() -> None:
    encoder = LastFrame()
    linear_evaluation(EncodedViews(encoder, Split(40, jitter=0.1)), Split(20).features(), config(), CLASSES)
    assert encoder.samples == 40 * 12


def test_the_encoder_is_the_same_to_the_bit_afterwards() -> None:
    torch.manual_seed(0)
    encoder = GRUEncoder(GRUConfig(hidden=4, layers=1)).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    test = extract_features(encoder, Split(20, width=150).epoch(0))
    linear_evaluation(EncodedViews(encoder, Split(40, width=150)), test, config(epochs=2), CLASSES)
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
        results.append(evaluate(Split(96, noise=2), Split(500, noise=2), settings))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_classes_without_test_samples_have_no_accuracy() -> None:
    test = Split(30, label=lambda number: number * 0 + 1)
    result = evaluate(Split(240), test, config(epochs=1), CLASSES + 2)
    assert [value is None for value in result.per_class] == [True, False, True, True, True, True]


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_labels_out_of_range_are_refused(crop: str) -> None:
    good, bad = Split(40), Split(40, label=lambda number: number % 7)
    with pytest.raises(ConfigError, match=r"training split: found labels .*\.\.6, expected them in 0\.\.3"):
        evaluate(bad, good, config(crop=crop))
    with pytest.raises(ConfigError, match=r"test split: found labels 0\.\.6"):
        evaluate(good, bad, config(crop=crop))


def test_an_empty_split_is_refused() -> None:
    some = Split(4).features()
    empty = Features(some.values[:0], some.label[:0], some.sample_id[:0])
    with pytest.raises(ConfigError, match="training split: found no samples"):
        linear_evaluation(empty, some, config(crop="centre"), CLASSES)
    with pytest.raises(ConfigError, match="test split: found no samples"):
        linear_evaluation(some, empty, config(crop="centre"), CLASSES)
    with pytest.raises(ConfigError, match="validation split: found no samples"):
        linear_evaluation(some, some, config(crop="centre"), CLASSES, validation=empty)

    class Nothing(Split):
        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
            return iter(())

    with pytest.raises(ConfigError, match="found no training batch"):
        linear_evaluation(EncodedViews(LastFrame(), Nothing(4)), some, config(), CLASSES)


def test_the_defaults_are_the_published_setting() -> None:
    settings = LinearConfig()
    assert (settings.epochs, settings.batch_size, settings.lr, settings.gamma) == (100, 1024, 0.1, 0.1)
    assert settings.optimizer == SGDConfig(momentum=0.9, nesterov=False, weight_decay=0.0)
    assert (settings.milestones, settings.warmup_epochs, settings.crop) == ((20, 50, 80), 0, "random")
    assert (settings.label_smoothing, settings.batch_norm, settings.init_std) == (0.0, False, 0.01)


@pytest.mark.parametrize(
    "changes", [{"crop": "full"}, {"epochs": 0}, {"lr": -1}, {"min_lr": 0.2}, {"label_smoothing": 1}, {"unknown": 1}]
)
def test_values_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LinearConfig(**changes)
