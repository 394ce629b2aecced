"""Encoders and objectives with no more inside than a test looks at."""

import torch
from torch import Tensor, nn

from models.encoders.encoder import Encoded, Encoder
from models.norm import GlobalBatchNorm
from models.objectives.objective import Objective, Outcome, Progress
from models.objectives.pcm3pp import PCM3PP, StepOutput
from shards.batch import Views

PROGRESS = Progress(epoch=0, step=0, epoch_steps=1, epochs=1)
"""Of a step whose place in the run does not matter."""


class Frames(Encoder):
    """Passes its input on, or makes of each frame what a subclass says in `encode`; the last frame is the feature."""

    family = "gru"
    stride = 1

    def __init__(self, width: int = 0) -> None:
        super().__init__()
        self.width = width

    def encode(self, x_NTD: Tensor) -> Tensor:
        return x_NTD

    def forward(self, x_NTD: Tensor) -> Encoded:
        frames = self.encode(x_NTD)
        return Encoded(frames[:, -1], frames)


class Wrapped(Encoder):
    """Any module as an encoder of one block, without frames."""

    family = "gru"
    blocks = (("inner",),)

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Encoded:
        return Encoded(self.inner(x), None)


def push_keys(model: PCM3PP, output: StepOutput) -> None:
    """What PCM3++ does after a step; only after the backward pass, which needs the queue as it was."""
    kept = {f"keys/{number}": keys for number, keys in enumerate(output.keys)}
    model.after_step(Outcome(output.terms, {}, output.features, kept))


BATCH, WIDTH = 4, 5
"""Samples of a step of `Tiny`, and entries of each."""


class Tiny(Objective):
    """An encoder, a queue that each step writes into, a twin without gradient, and draws that matter."""

    queue: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        inner = nn.Sequential(GlobalBatchNorm(WIDTH), nn.Linear(WIDTH, 3))
        self.encoders = nn.ModuleDict({"joint": Wrapped(inner)})
        self.twin = nn.Linear(WIDTH, 3).requires_grad_(False)
        for parameter in (*inner[1].parameters(), *self.twin.parameters()):
            nn.init.normal_(parameter, generator=generator)
        self.register_buffer("queue", torch.randn(8, 3, generator=generator))

    def draw(self, seed: int, epoch: int, step: int, n: int) -> Tensor:
        return torch.rand(n, 1, generator=torch.Generator().manual_seed((seed * 100 + epoch) * 100 + step))

    def forward(self, views: Views, draws: Tensor) -> Outcome:
        query = self.encoder(views.views["x"] * draws).feature
        key = self.twin(views.views["x"])
        terms = {
            "pull": (query - key).square().mean(),
            "push": 0.1 * (query @ self.queue.clone().T).logsumexp(1).mean(),
        }
        return Outcome(terms, {}, query.detach(), {"key": key})

    @torch.no_grad()
    def before_step(self, progress: Progress) -> None:
        self.twin.weight.lerp_(self.encoder.inner[1].weight, 0.1)

    def after_step(self, outcome: Outcome) -> None:
        self.queue.copy_(torch.cat([outcome.kept["key"], self.queue[:-BATCH]]))


class Parabola(Objective):
    """One parameter, and a target that each step draws."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(inner.weight, 2.0)
        self.encoders = nn.ModuleDict({"joint": Wrapped(inner)})

    @property
    def weight(self) -> Tensor:
        return self.encoder.inner.weight.squeeze()

    def draw(self, seed: int, epoch: int, step: int, n: int) -> float:
        return seed + 0.1 * epoch + 0.01 * step

    def forward(self, views: Views, draws: float) -> Outcome:
        terms = {"near": 0.5 * (self.weight - draws).square(), "far": 0.5 * self.weight}
        return Outcome(terms, {}, torch.eye(4, 3, dtype=torch.float64))
