import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from models.encoders.gru import GRUConfig, GRUEncoder
from models.evaluation.detection.detector import DetectionConfig, Detector, frame_scores, train_detector
from models.evaluation.detection.segments import find_actions
from models.norm import GlobalBatchNorm
from shards.batch import Views
from shards.errors import ConfigError, SkelstreamError
from shards.skeleton import FRAME_SIZE
from tests.models.standins import Frames, Wrapped

CLASSES, WIDTH = 3, FRAME_SIZE


@dataclass
class Windows:
    """Random windows, four batches of 16 an epoch; they tell their class."""

    label: Callable[[Tensor], Tensor] = lambda label: label
    value: float = 1.0
    batches: int = 4

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        generator = torch.Generator().manual_seed(epoch)
        for step in range(self.batches):
            label = torch.randint(0, CLASSES + 1, (16,), generator=generator)
            x = 2 + torch.randn(16, 5, WIDTH, generator=generator) + 3 * F.one_hot(label, WIDTH)[:, None]
            yield Views({"x": self.value * x}, self.label(label), torch.arange(16) + 16 * step)


TRUTH = [[(1, 40, 90), (3, 120, 200)], [(2, 30, 75), (1, 100, 160), (2, 180, 230)]]
LENGTHS = (240, 260)


def classes(number: int) -> Tensor:
    label = torch.zeros(LENGTHS[number], dtype=torch.int64)
    for name, start, stop in TRUTH[number]:
        label[start:stop] = name
    return label


@dataclass
class Videos:
    """Two videos; a frame tells its class where `clear`, and otherwise only noise."""

    clear: bool = True
    label: Callable[[Tensor], Tensor] = lambda label: label

    def __len__(self) -> int:
        return 2

    def video(self, number: int) -> Views:
        label = classes(number)
        x = torch.randn(len(label), WIDTH, generator=torch.Generator().manual_seed(number))
        x = 2 + 0.1 * x + 3 * F.one_hot(label, WIDTH) if self.clear else x
        first = torch.tensor([sum(LENGTHS[:number])])
        return Views({"x": x[None]}, torch.zeros(1), first, targets={"x/action": self.label(label)[None]})

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        for number in range(first_step, 2):
            yield self.video(number)


def encoder(seed: int = 0) -> GRUEncoder:
    torch.manual_seed(seed)
    return GRUEncoder(GRUConfig(hidden=8, layers=2, input_size=WIDTH))


def config(**options: Any) -> DetectionConfig:
    return DetectionConfig(**{"epochs": 2, "milestones": (1,), **options})


def data(method: str) -> Windows | Videos:
    return Windows() if method == "window" else Videos()


def test_the_defaults_are_the_published_setting() -> None:
    default = DetectionConfig()
    assert default.model_dump(exclude={"post", "look_ahead", "frames_per_video", "seed"}) == {
        "method": "window",
        "coordinates": "raw",
        "input_norm": "reestimate",
        "epochs": 60,
        "batch_size": 64,
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "milestones": (39,),
        "gamma": 0.1,
        "score_every": 5,
        "window": 16,
        "train_strides": (3, 5),
        "test_stride": 4,
        "windows_per_video": 16,
    }
    assert (default.post.half_width, default.post.activity) == (10, 0.4)
    with pytest.raises(ValidationError):
        DetectionConfig(stride=4)


@pytest.mark.parametrize("method", ["window", "dense"])
@pytest.mark.parametrize("input_norm", ["reestimate", "frozen"])
@pytest.mark.parametrize("training", [True, False])
def test_the_given_encoder_is_bit_identical_afterwards_and_has_its_mode(
    method: str, input_norm: str, training: bool
) -> None:
    given = encoder().train(training)
    before = copy.deepcopy(given.state_dict())
    detector = train_detector(given, data(method), config(method=method, input_norm=input_norm), CLASSES)
    frame_scores(detector, iter([Videos().video(0)]))
    assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())
    assert all(module.training == training for module in given.modules())
    assert all(parameter.grad is None for parameter in given.parameters())
    own = detector.encoder.state_dict()
    changed = {name for name in before if not torch.equal(before[name], own[name])}
    statistics = {"input_norm.running_mean", "input_norm.running_var"}
    assert changed - {"input_norm.num_batches_tracked"} == (statistics if input_norm == "reestimate" else set())
    assert not any(module.training for module in detector.encoder.modules())


@pytest.mark.parametrize("input_norm", ["reestimate", "frozen"])
def test_training_on_windows_equals_a_loop_whose_norm_stays_in_train_mode(input_norm: str) -> None:
    options = config(input_norm=input_norm, epochs=3, lr=0.05, milestones=(1, 2), gamma=0.5, seed=4)
    detector = train_detector(encoder(), Windows(), options, CLASSES)

    own = encoder().eval()
    own.input_norm.train(input_norm == "reestimate")
    generator = torch.Generator().manual_seed(4)
    weight = (2 * torch.rand(4, 16, generator=generator) - 1) / 4
    bias = (2 * torch.rand(4, generator=generator) - 1) / 4
    speed_w, speed_b = torch.zeros_like(weight), torch.zeros_like(bias)
    for epoch, rate in enumerate((0.05, 0.025, 0.0125)):
        for batch in Windows().epoch(epoch):
            with torch.no_grad():
                h = own(batch.views["x"]).frames[:, -1]
            error = (h @ weight.T + bias).softmax(1) - F.one_hot(batch.label, 4)
            g_w, g_b = error.T @ h / 16, error.mean(0)
            speed_w, speed_b = 0.9 * speed_w + g_w, 0.9 * speed_b + g_b
            weight, bias = weight - rate * (g_w + 0.9 * speed_w), bias - rate * (g_b + 0.9 * speed_b)
    torch.testing.assert_close(detector.head.weight, weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(detector.head.bias, bias, rtol=1e-4, atol=1e-6)
    state = detector.encoder.state_dict()
    for name, tensor in own.state_dict().items():
        torch.testing.assert_close(state[name], tensor)


def test_dense_statistics_of_the_input_norm_are_those_of_all_frames() -> None:
    detector = train_detector(encoder(), Videos(), config(method="dense"), CLASSES)
    frames = np.concatenate([batch.views["x"][0].double().numpy() for batch in Videos().epoch(0)])
    state = detector.encoder.state_dict()
    np.testing.assert_allclose(state["input_norm.running_mean"], frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state["input_norm.running_var"], frames.var(0, ddof=1), rtol=1e-4)


def test_scores_of_windows_are_softmax_of_the_layer_on_the_last_frame_in_order() -> None:
    detector = train_detector(encoder(), Windows(), config(), CLASSES)
    batches = list(Windows().epoch(9))
    scores = frame_scores(detector, iter(batches))
    assert scores.shape == (64, CLASSES + 1)
    assert scores.dtype == torch.float32
    x = torch.cat([batch.views["x"] for batch in batches])
    expected = torch.cat([detector.head(detector.encoder(row[None]).frames[:, -1]).softmax(1) for row in x])
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(scores.sum(1), torch.ones(64))


@pytest.mark.parametrize("ahead", [0, 5, 300])
def test_dense_scores_of_a_frame_see_the_video_up_to_so_many_frames_later(ahead: int) -> None:
    detector = train_detector(encoder(), Videos(), config(method="dense", look_ahead=ahead), CLASSES)
    batch = Videos().video(0)
    scores = frame_scores(detector, iter([batch]))
    assert scores.shape == (240, CLASSES + 1)
    for t in (0, 1, 100, 236, 239):
        seen = batch.views["x"][:, : min(t + ahead, 239) + 1]
        expected = detector.head(detector.encoder(seen).frames[:, -1]).softmax(1)[0]
        torch.testing.assert_close(scores[t], expected, rtol=1e-4, atol=1e-6)


def test_dense_training_keeps_a_draw_of_the_frames_of_each_video() -> None:
    detector = train_detector(
        Frames(WIDTH),
        Videos(clear=False),
        config(method="dense", look_ahead=0, input_norm="frozen", frames_per_video=50, epochs=1, batch_size=30),
        CLASSES,
    )
    everything = torch.cat([batch.views["x"][0] for batch in Videos(clear=False).epoch(0)])
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    rows, labels = [], []
    for number, first in ((0, 0), (1, 240)):
        chosen = torch.randperm(LENGTHS[number], generator=torch.Generator().manual_seed(first))[:50]
        rows.append(everything[first + chosen])
        labels.append(classes(number)[chosen])
    head = nn.Linear(WIDTH, CLASSES + 1)
    generator = torch.Generator().manual_seed(0)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -(WIDTH**-0.5), WIDTH**-0.5, generator=generator)
    sgd = torch.optim.SGD(head.parameters(), 0.01, momentum=0.9, nesterov=True)
    for part in order.split(30):
        sgd.zero_grad()
        F.cross_entropy(head(torch.cat(rows)[part]), torch.cat(labels)[part]).backward()
        sgd.step()
    torch.testing.assert_close(detector.head.weight, head.weight)


@pytest.mark.parametrize("method", ["window", "dense"])
def test_frames_that_tell_their_class_give_the_true_actions(method: str) -> None:
    options = config(method=method, input_norm="frozen", look_ahead=0, lr=0.1, epochs=30, milestones=())
    detector = train_detector(Frames(WIDTH), data(method), options, CLASSES)
    for number, truth in enumerate(TRUTH):
        batch = Videos().video(number)
        if method == "window":
            batch = Views({"x": batch.views["x"][0, :, None]}, classes(number), torch.arange(LENGTHS[number]))
        found = find_actions(frame_scores(detector, iter([batch])).numpy(), number)
        assert found.label.tolist() == [name for name, _, _ in truth]
        # the mean filter of 20 frames shifts ends a little
        for ends, column in ((found.start, 1), (found.end, 2)):
            assert max(abs(ends - np.array([row[column] for row in truth]))) <= 3


@pytest.mark.parametrize("method", ["window", "dense"])
def test_the_same_seed_gives_the_same_detector_and_another_seed_another(method: str) -> None:
    def weights(seed: int) -> Tensor:
        return train_detector(encoder(), data(method), config(method=method, seed=seed), CLASSES).head.weight

    torch.manual_seed(5)
    first = weights(1)
    torch.manual_seed(6)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2]), (2, [1, 2]), (3, [2]), (5, [2])])
def test_the_detector_can_be_looked_at_after_some_epochs_and_the_last(every: int, epochs: list[int]) -> None:
    states: list[tuple[int, Tensor]] = []

    def look(epoch: int, detector: Detector) -> None:
        frame_scores(detector, Windows().epoch(0))
        states.append((epoch, detector.head.weight.detach().clone()))

    watched = train_detector(encoder(), Windows(), config(epochs=3, score_every=every), CLASSES, after_epoch=look)
    assert [epoch for epoch, _ in states] == epochs
    assert torch.equal(states[-1][1], watched.head.weight)
    assert not any(torch.equal(weight, watched.head.weight) for _, weight in states[:-1])
    alone = train_detector(encoder(), Windows(), config(epochs=3), CLASSES)
    assert torch.equal(alone.head.weight, watched.head.weight)


@pytest.mark.parametrize("method", ["window", "dense"])
def test_an_encoder_without_an_input_norm_cannot_reestimate_it(method: str) -> None:
    with pytest.raises(ConfigError, match='expected input_norm="frozen"'):
        train_detector(Frames(WIDTH), data(method), config(method=method), CLASSES)
    # as a graph encoder has: each person by itself
    of_a_person = Frames(WIDTH)
    of_a_person.input_norm = GlobalBatchNorm(WIDTH // 2)
    with pytest.raises(ConfigError, match=r'of every entry of a frame, expected input_norm="frozen"'):
        train_detector(of_a_person, data(method), config(method=method), CLASSES)


@pytest.mark.parametrize(
    ("method", "views"),
    [("window", Windows(lambda label: label + 1)), ("dense", Videos(label=lambda label: label + 1))],
)
def test_labels_outside_the_classes_are_refused(method: str, views: Windows | Videos) -> None:
    with pytest.raises(ConfigError, match=r"found labels 1\.\.4, expected them in 0\.\.3"):
        train_detector(encoder(), views, config(method=method), CLASSES)


def test_no_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="found no training window"):
        train_detector(encoder(), Windows(batches=0), config(), CLASSES)
    detector = train_detector(encoder(), Windows(), config(), CLASSES)
    with pytest.raises(ConfigError, match="found no frame to score"):
        frame_scores(detector, iter([]))


def test_an_encoder_of_fixed_length_is_refused_for_the_dense_method() -> None:
    class Half(Frames):
        def encode(self, x_NTD: Tensor) -> Tensor:
            return x_NTD[:, ::2]

    settings = config(method="dense", input_norm="frozen")
    for fixed in (Half(), Wrapped(nn.Flatten())):
        with pytest.raises(ConfigError, match='of 240 frames, expected one a frame for the method "dense"'):
            train_detector(fixed, Videos(), settings, CLASSES)


def test_features_that_are_no_numbers_are_refused_with_their_frame() -> None:
    with pytest.raises(SkelstreamError, match="NaN or infinity in the features"):
        train_detector(Frames(WIDTH), Windows(value=float("nan")), config(input_norm="frozen"), CLASSES)
    detector = train_detector(Frames(WIDTH), Videos(), config(method="dense", input_norm="frozen"), CLASSES)
    batch = Videos().video(1)
    batch.views["x"][0, 17, 2] = float("inf")
    with pytest.raises(SkelstreamError, match="features of frame 17 of the video that begins with frame 240"):
        frame_scores(detector, iter([batch]))


def test_training_that_diverges_is_told_and_scores_nothing() -> None:
    settings = config(input_norm="frozen").model_copy(update={"lr": 3e37})  # which no option gives
    with pytest.raises(SkelstreamError, match="after epoch 0, expected finite weights: the rate"):
        train_detector(Frames(WIDTH), Windows(value=1e3), settings, CLASSES)
