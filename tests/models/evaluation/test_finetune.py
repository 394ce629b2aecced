import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from models.encoders.encoder import Encoder
from models.encoders.gru import GRUConfig, GRUEncoder
from models.encoders.transformer import TransformerConfig, TransformerEncoder
from models.evaluation.features import extract_features
from models.evaluation.finetune import FinetuneConfig, FinetuneResult, finetune, prepare_encoder
from models.evaluation.linear import EncodedViews, LinearConfig, linear_evaluation
from models.training.divergence import DivergenceError
from models.training.optimizers import AdamConfig, AdamWConfig, SGDConfig
from shards.batch import Views
from shards.errors import ConfigError, SkelstreamError
from shards.skeleton import FRAME_SIZE
from tests.models.standins import Frames

CLASSES, WIDTH, FRAMES = 3, 6, 5
NO_MOMENTUM = SGDConfig(momentum=0.0, weight_decay=0.0)


def directions() -> Tensor:
    """(classes, C): where the walks of each class lead."""
    return torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99))


@dataclass
class Split:
    """Noisy walks whose direction is their class; the noise is another in each epoch.

    Labels are turned by one from epoch `spoiled_from` on, and those of all epochs by `turn`.
    """

    samples: int
    batch: int = 16
    noise: float = 0.5
    seed: int = 0
    spoiled_from: int = 1000
    turn: int = 0
    nan_at: tuple[int, int] = (-1, -1)

    def __len__(self) -> int:
        return -(-self.samples // self.batch)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        number = torch.arange(self.samples)
        noise = torch.randn(self.samples, FRAMES, WIDTH, generator=generator)
        x = directions()[number % CLASSES, None] * torch.linspace(0, 1, FRAMES)[:, None] + self.noise * noise
        label = (number + self.turn + (epoch >= self.spoiled_from)) % CLASSES
        for step, rows in enumerate(torch.randperm(self.samples, generator=generator).split(self.batch)):
            bad = (epoch, step) == self.nan_at
            yield Views({"x": torch.full_like(x[rows], torch.nan) if bad else x[rows]}, label[rows], rows)

    def once(self) -> Iterator[Views]:
        return self.epoch(0)


@dataclass
class Skeletons:
    """Noise of 4 frames; the class shows in the joint that is far away. The last batch is a single sample."""

    samples: int
    seed: int = 0

    def __len__(self) -> int:
        return -(-self.samples // 4)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        generator = torch.Generator().manual_seed(self.seed)
        x, number = torch.randn(self.samples, 4, FRAME_SIZE, generator=generator), torch.arange(self.samples)
        for sample in number:
            joint = 3 * int(sample % CLASSES)
            x[sample, :, 6 * joint : 6 * joint + 6] += 3
        for rows in number.split(4):  # type: ignore[no-untyped-call]  # torch leaves it untyped
            yield Views({"x": x[rows]}, rows % CLASSES, rows)

    def once(self) -> Iterator[Views]:
        return self.epoch(0)


def config(**changes: Any) -> FinetuneConfig:
    return FinetuneConfig(
        **({"epochs": 4, "batch_size": 16, "lr": 0.3, "milestones": (2, 3), "score_every": 1} | changes)
    )


def tiny(seed: int = 0) -> GRUEncoder:
    torch.manual_seed(seed)
    return GRUEncoder(GRUConfig(hidden=8, layers=1, input_size=WIDTH))


def run(encoder: Encoder, train: Split, test: Split, settings: FinetuneConfig, **more: Any) -> FinetuneResult:
    return finetune(encoder, train, test.once, settings, CLASSES, **more)


def test_training_is_sgd_on_all_parameters_written_out() -> None:
    train, test = Split(40), Split(30, seed=1, noise=1.0)
    encoder = tiny()
    copied = copy.deepcopy(encoder)
    head = nn.init.normal_(torch.empty(CLASSES, 16), std=0.01, generator=torch.Generator().manual_seed(7))
    weight, bias = head.requires_grad_(), torch.zeros(CLASSES, requires_grad=True)
    parameters = [*copied.parameters(), weight, bias]
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    curve = []
    for epoch in range(4):
        copied.train()
        for batch in train.epoch(epoch):
            scores = copied(batch.views["x"]).frames[:, -1] @ weight.T + bias
            loss = torch.stack([-row.log_softmax(0)[c] for row, c in zip(scores, batch.label, strict=True)]).mean()
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, v, gradient in zip(parameters, velocity, gradients, strict=True):
                    v.mul_(0.8).add_(gradient + 0.01 * parameter)
                    parameter -= (0.3, 0.3, 0.03, 0.003)[epoch] * v
        copied.eval()
        scored = []
        for batch in test.once():
            with torch.no_grad():
                scored.append((copied(batch.views["x"]).frames[:, -1] @ weight.T + bias, batch.label, batch.sample_id))
        logits, label, sample_id = (torch.cat(column) for column in zip(*scored, strict=True))
        curve.append((logits.argmax(1) == label).float().mean().item())

    result = run(encoder, train, test, config(optimizer=SGDConfig(momentum=0.8, weight_decay=0.01), seed=7))
    assert torch.equal(result.logits.sample_id, sample_id)
    assert torch.equal(result.logits.label, label)
    torch.testing.assert_close(result.logits.values, logits, rtol=0, atol=1e-6)
    assert result.curve == pytest.approx(curve, abs=1e-6)
    hits = [(logits.argmax(1) == label)[label == c].float().mean().item() for c in range(CLASSES)]
    assert result.per_class == pytest.approx(hits)
    assert len(set(curve)) > 1


def test_the_default_setting_is_that_of_torch_to_the_bit() -> None:
    train, test, encoder, settings = Split(40), Split(30, seed=1), tiny(), config(seed=7)
    copied, head = copy.deepcopy(encoder), nn.Linear(16, CLASSES)
    nn.init.normal_(head.weight, std=0.01, generator=torch.Generator().manual_seed(7))
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD([*copied.parameters(), *head.parameters()], settings.lr, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(settings.milestones))
    for epoch in range(settings.epochs):
        for batch in train.epoch(epoch):
            optimizer.zero_grad()
            loss = F.cross_entropy(head(copied(batch.views["x"]).feature), batch.label)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        schedule.step()
    copied.eval()
    with torch.no_grad():
        expected = torch.cat([head(copied(batch.views["x"]).feature) for batch in test.once()])
    assert torch.equal(run(encoder, train, test, settings).logits.values, expected)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_rates_and_decay_by_layer_smoothing_and_a_warm_cosine_are_those_written_out(kind: str) -> None:
    train, test = Split(40), Split(30, seed=1, noise=1.0)
    torch.manual_seed(0)
    encoder = GRUEncoder(GRUConfig(hidden=4, layers=3, input_size=WIDTH))
    copied = copy.deepcopy(encoder)
    head = nn.init.normal_(torch.empty(CLASSES, 8), std=0.2, generator=torch.Generator().manual_seed(7))
    weights = {
        **dict(copied.named_parameters()),
        "weight": head.requires_grad_(),
        "bias": torch.zeros(CLASSES),
    }
    weights["bias"].requires_grad_()
    scales = {name: 0.5**2 if name.startswith(("input_norm", "layers.0")) else 1.0 for name in weights}
    scales |= {name: 0.5 for name in weights if name.startswith("layers.1")}
    moments = {name: [torch.zeros_like(weight), torch.zeros_like(weight)] for name, weight in weights.items()}
    done = 0
    for epoch in range(4):
        for batch in train.epoch(epoch):
            scores = copied(batch.views["x"]).feature @ weights["weight"].T + weights["bias"]
            logs = scores.log_softmax(1)
            told = torch.stack([row[c] for row, c in zip(logs, batch.label, strict=True)])
            loss = -(0.7 * told + 0.3 * logs.mean(1)).mean()
            gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
            rate = 0.02 * (done + 1) / 3 if done < 3 else 0.002 + 0.009 * (1 + math.cos(math.pi * (done - 3) / 9))
            done += 1
            for name, weight in weights.items():
                gradient, (first, second) = gradients[name], moments[name]
                own = rate * scales[name] if kind == "adamw" else rate
                with torch.no_grad():
                    if kind == "adam":
                        gradient = gradient + 0.1 * weight
                    elif weight.dim() > 1:
                        weight *= 1 - own * 0.1
                    first.mul_(0.8).add_(0.2 * gradient)
                    second.mul_(0.9).add_(0.1 * gradient.square())
                    weight -= own * (first / (1 - 0.8**done)) / ((second / (1 - 0.9**done)).sqrt() + 1e-8)
    copied.eval()
    expected = []
    with torch.no_grad():
        for batch in test.once():
            expected.append(copied(batch.views["x"]).feature @ weights["weight"].T + weights["bias"])
    shared: dict[str, Any] = {"betas": (0.8, 0.9), "weight_decay": 0.1}
    settings = config(
        optimizer=AdamWConfig(**shared, layer_decay=0.5) if kind == "adamw" else AdamConfig(**shared),
        lr=0.02,
        min_lr=0.002,
        schedule="cosine",
        warmup_epochs=1,
        label_smoothing=0.3,
        init_std=0.2,
        seed=7,
    )
    found = finetune(encoder, train, test.once, settings, CLASSES)
    torch.testing.assert_close(found.logits.values, torch.cat(expected), rtol=0, atol=1e-5)


def transformer() -> TransformerEncoder:
    torch.manual_seed(0)
    return TransformerConfig(width=8, layers=3, heads=2, mlp_ratio=1, patch_frames=2, frames=4).build()


def test_the_mlp_head_learns_from_tokens_with_dropout_and_drop_path_and_leaves_the_encoder_alone() -> None:
    encoder, train, test = transformer(), Skeletons(21), Skeletons(18, seed=1)
    settings = config(
        head="mlp", dropout=0.3, drop_path=0.4, batch_size=4, lr=0.01, optimizer=AdamWConfig(layer_decay=0.8), epochs=6
    )
    before = copy.deepcopy(encoder.state_dict())
    assert finetune(encoder, train, test.once, settings, CLASSES).last > 0.8
    assert all(torch.equal(before[name], values) for name, values in encoder.state_dict().items())
    assert [block.drop_path1.p for block in encoder.layers] == [0.0, 0.0, 0.0]
    logits = []
    for number, changes in enumerate(({}, {}, {"dropout": 0.0}, {"drop_path": None}, {"seed": 1})):
        torch.manual_seed(number)
        one = settings.model_copy(update={"epochs": 1, **changes})
        logits.append(finetune(encoder, train, test.once, one, CLASSES).logits.values)
    assert torch.equal(logits[0], logits[1])
    assert not any(torch.equal(logits[0], other) for other in logits[2:])


def test_what_an_encoder_has_not_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match=r'finetune.head "mlp" for an encoder \(gru\) without tokens of joints'):
        run(tiny(), Split(8), Split(8), config(head="mlp"))
    with pytest.raises(ConfigError, match=r"found drop path 0.3 for an encoder \(gru\) without branches to skip"):
        run(tiny(), Split(8), Split(8), config(drop_path=0.3))


def test_drop_path_rises_from_nothing_in_the_first_block() -> None:
    encoder = transformer()
    prepare_encoder(encoder, config(drop_path=0.4))
    assert [(block.drop_path1.p, block.drop_path2.p) for block in encoder.layers] == [(0, 0), (0.2, 0.2), (0.4, 0.4)]
    prepare_encoder(encoder, config())
    assert encoder.layers[-1].drop_path1.p == 0.4


def test_the_encoder_learns_what_it_could_not_see_before() -> None:
    class Blind(Frames):
        """Three features of a frame, orthogonal to all that tells the classes apart."""

        def __init__(self) -> None:
            super().__init__(WIDTH - CLASSES)
            self.weight = nn.Parameter(torch.linalg.svd(directions()).Vh[CLASSES:].T)

        def encode(self, x_NTD: Tensor) -> Tensor:
            return x_NTD @ self.weight

    train, test, encoder = Split(90), Split(60, seed=1), Blind()
    settings = LinearConfig(epochs=12, batch_size=16, milestones=())
    features = extract_features(encoder, test.once())
    frozen = linear_evaluation(EncodedViews(encoder, train), features, settings, CLASSES)
    result = run(encoder, train, test, config(epochs=12, milestones=()))
    assert frozen.last < 0.55
    assert result.last == result.curve[-1] > 0.9


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_is_the_same_to_the_bit_afterwards(training: bool) -> None:
    encoder = tiny().train(training)
    encoder.input_norm.eval()
    before = copy.deepcopy(encoder.state_dict())
    modes = [part.training for part in encoder.modules()]
    run(encoder, Split(40), Split(20), config())
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [part.training for part in encoder.modules()] == modes
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_norms_adapt_while_training_and_only_then() -> None:
    class Spy(Frames):
        """Notes the mode of each pass."""

        def __init__(self) -> None:
            super().__init__(WIDTH)
            self.weight = nn.Parameter(torch.eye(WIDTH))
            self.modes = modes

        def __deepcopy__(self, memo: dict[int, Any]) -> "Spy":
            return Spy()

        def encode(self, x_NTD: Tensor) -> Tensor:
            self.modes.append(self.training)
            return x_NTD @ self.weight

    modes: list[bool] = []
    run(Spy().eval(), Split(32), Split(16), config(epochs=2))
    assert modes == [True, True, False, True, True, False]


def test_parameters_that_were_frozen_before_learn_too() -> None:
    results = [run(tiny().requires_grad_(asks), Split(40), Split(30), config()) for asks in (True, False)]
    assert results[0] == results[1]
    assert torch.equal(results[0].logits.values, results[1].logits.values)


def test_equal_seeds_give_equal_results_to_the_bit_whatever_the_global_generator() -> None:
    encoder, results = tiny(), []
    for state, seed in [(1, 0), (2, 0), (1, 3)]:
        torch.manual_seed(state)
        results.append(run(encoder, Split(40), Split(60, seed=1), config(seed=seed)))
    assert results[0] == results[1]
    assert torch.equal(results[0].logits.values, results[1].logits.values)
    assert not torch.equal(results[0].logits.values, results[2].logits.values)


def test_last_and_best_are_told_apart() -> None:
    # the labels of the later epochs are wrong, so that the best epoch is an early one
    result = run(
        tiny(),
        Split(90, noise=0.1, spoiled_from=5),
        Split(30, noise=0.1),
        config(epochs=12, milestones=(), optimizer=NO_MOMENTUM),
    )
    assert result.best == max(result.curve) > result.last == result.curve[-1]
    assert result.best_epoch == result.scored_epochs[result.curve.index(result.best)] <= 6
    assert (result.chosen, result.chosen_epoch, result.validation_curve) == (None, None, None)


def test_the_chosen_epoch_is_the_best_of_the_validation_split_and_not_of_the_test_split() -> None:
    # the validation split has the labels of the later epochs, the test split those of the first ones
    train = Split(90, noise=0.1, spoiled_from=5)
    test, validation = Split(30, noise=0.1), Split(30, noise=0.1, seed=2, turn=1)
    settings = config(epochs=12, milestones=(), optimizer=NO_MOMENTUM)
    alone = run(tiny(), train, test, settings)
    result = run(tiny(), train, test, settings, validation=validation.once)
    assert result.validation_curve is not None
    assert result.validation_curve == run(tiny(), train, validation, settings).curve
    assert result.chosen_epoch == result.validation_curve.index(max(result.validation_curve))
    assert result.chosen == result.curve[result.chosen_epoch] < result.best
    assert (result.curve, result.last, result.best) == (alone.curve, alone.last, alone.best)


def test_every_so_many_epochs_are_scored_and_the_last_in_any_case() -> None:
    all_epochs = run(tiny(), Split(40), Split(30), config(epochs=8))
    some = run(tiny(), Split(40), Split(30), config(epochs=8, score_every=3))
    assert all_epochs.scored_epochs == tuple(range(8))
    assert some.scored_epochs == (2, 5, 7)
    assert some.curve == tuple(all_epochs.curve[epoch] for epoch in some.scored_epochs)
    assert some.best_epoch in some.scored_epochs


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step() -> None:
    with pytest.raises(DivergenceError, match=r"epoch 2, step 1 \(from 0\): found the loss nan, expected a finite"):
        run(tiny(), Split(40, nan_at=(2, 1)), Split(30), config())


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SkelstreamError, match="NaN or infinity"):
        run(tiny(), Split(40), Split(30, nan_at=(0, 1)), config())


def test_classes_without_test_samples_have_no_accuracy() -> None:
    result = finetune(tiny(), Split(40), Split(1).once, config(epochs=1), CLASSES + 1)
    assert [value is None for value in result.per_class] == [False, True, True, True]


def test_labels_out_of_range_are_refused() -> None:
    good = Split(40)
    with pytest.raises(ConfigError, match=r"training split: found labels .*\.\.2, expected them in 0\.\.1"):
        finetune(tiny(), good, good.once, config(), CLASSES - 1)
    two = Split(2)
    with pytest.raises(ConfigError, match=r"test split: found labels 0\.\.2"):
        finetune(tiny(), two, good.once, config(), CLASSES - 1)
    with pytest.raises(ConfigError, match=r"validation split: found labels 0\.\.2"):
        finetune(tiny(), two, two.once, config(), CLASSES - 1, validation=good.once)


def test_an_empty_split_is_refused() -> None:
    full, empty = Split(20), Split(0)
    for train, test, validation in [(empty, full, full), (full, empty, full), (full, full, empty)]:
        with pytest.raises(ConfigError, match="found no"):
            finetune(tiny(), train, test.once, config(), CLASSES, validation=validation.once)


def test_the_defaults_are_the_published_setting() -> None:
    settings = FinetuneConfig()
    assert (settings.epochs, settings.batch_size, settings.lr, settings.score_every) == (80, 64, 0.01, 5)
    assert settings.optimizer == SGDConfig(momentum=0.9, nesterov=False, weight_decay=0.0)
    assert (settings.schedule, settings.milestones, settings.gamma) == ("step", (50, 70), 0.1)
    assert (settings.head, settings.dropout, settings.drop_path, settings.label_smoothing) == ("linear", 0.0, None, 0.0)


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 0}, {"lr": -1}, {"momentum": 1}, {"score_every": 0}, {"drop_path": 1}, {"head": "deep"}, {"min_lr": 1}],
)
def test_values_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FinetuneConfig(**changes)
