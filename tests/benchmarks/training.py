"""Seconds of one training step of PCM3 against the released way of computing it, and of PCM3++ at full size.

    python tests/benchmarks/training.py [--batch 8 32] [--hidden 1024] [--threads 2] [--rounds 2]
    python tests/benchmarks/training.py --parts            where the time of a step goes
    python tests/benchmarks/training.py --device cuda      steps/s, TFLOP/s, memory, hours of the full schedule

The reference feeds a "bidirectional" GRU one frame at a time, one view after the other, as JHang2020/PCM3 does. Both
compute the same loss from the same weights, which is checked first; then they take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flows.recipes.pcm3 import PCM3PPViewsConfig
from models.encoders.gru import GRUConfig
from models.objectives.objective import Outcome
from models.objectives.pcm3_names import from_reference_state
from models.objectives.pcm3pp import PAIRS, PCM3PP, PCM3PPConfig
from models.training.precision import Precision, products
from models.training.schedule import TrainConfig
from pipelines.views import make_views
from shards.batch import RaggedBatch, Views

FRAMES, CHANNELS = 64, 150
# performance targets: ratio to the reference at hidden 1024
TARGETS = {("float32", 8): 3.5, ("float32", 32): 1.7, ("bfloat16", 32): 5.0}
# NTU 60 xview: 37,646 samples, batch 128, last batch dropped, 451 epochs
FULL_SCHEDULE = 37_646 // 128 * 451


class ReferenceEncoder(nn.Module):
    """Input norm over N*T, then three layers fed one frame at a time with the state carried over; projector."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm1d(CHANNELS)
        self.encoder = nn.ModuleDict({"gru": nn.GRU(CHANNELS, hidden, num_layers=3, bidirectional=True)})
        self.fc = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, 128))

    def forward(self, view_NTD: Tensor) -> Tensor:
        x = self.input_norm(view_NTD.reshape(-1, CHANNELS)).view_as(view_NTD)
        state, outputs = None, []
        for t in range(x.shape[1]):
            y, state = self.encoder["gru"](x[:, t][None], state)
            outputs.append(y[0])
        return torch.stack(outputs, 1)

    def project(self, features_NTF: Tensor) -> Tensor:
        return F.normalize(self.fc(features_NTF[:, -1]), dim=1)


class ReferenceDecoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.decoder = nn.GRU(width, width, num_layers=2, batch_first=True)
        self.reconstruction = nn.Linear(width, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        reconstruction: Tensor = self.reconstruction(self.decoder(x)[0])
        return reconstruction


class Reference(nn.Module):
    """A step of PCM3 without prompts, in the order of the released code, under its names of parameters."""

    def __init__(self, hidden: int, queue_size: int) -> None:
        super().__init__()
        width = hidden // 2
        self.encoder_q, self.encoder_k = ReferenceEncoder(hidden), ReferenceEncoder(hidden)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)
        self.linear = nn.Sequential(
            nn.Linear(2 * hidden, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        )
        self.recons_decoder = ReferenceDecoder(width)
        self.register_buffer("queue", F.normalize(torch.randn(128, queue_size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))

    def decode(self, features_NTF: Tensor) -> Tensor:
        reduced = self.linear(features_NTF.reshape(-1, features_NTF.shape[2])).view(*features_NTF.shape[:2], -1)
        decoded: Tensor = self.recons_decoder(reduced)
        return decoded

    def forward(self, views: Views) -> Tensor:
        visible = views.masks["masked"].expand_as(views.views["target"]).float()
        base = self.encoder_q.project(self.encoder_q(views.views["base"]))
        features = self.encoder_q(views.views["masked"])
        masked = self.encoder_q.project(features)
        reconstruction = self.decode(features)
        guided = self.decode(features.detach()) * (1 - visible) + views.views["masked"] * visible
        predicted = self.encoder_q.project(self.encoder_q(guided))
        mix = self.encoder_q.project(self.encoder_q(views.views["mix"]))
        with torch.no_grad():
            for slow, fast in zip(self.encoder_k.parameters(), self.encoder_q.parameters(), strict=True):
                slow.data = slow.data * 0.999 + fast.data * 0.001
            key = self.encoder_k.project(self.encoder_k(views.views["key"]))
            assert views.mix_partner is not None
            assert views.mix_weight is not None
            share = views.mix_weight[:, None]
            mixed = F.normalize((1 - share) * key + share * key[views.mix_partner], dim=1)
        queue, loss = self.queue.clone(), torch.zeros(())
        for query, own in ((base, key), (mix, mixed), (masked, key), (predicted, key)):
            logits = torch.cat(((query * own).sum(1, keepdim=True), query @ queue), 1)
            loss = loss + F.cross_entropy(logits / 0.07, torch.zeros(len(query), dtype=torch.int64))
            teacher, student = F.softmax(own @ queue / 0.05, 1), F.log_softmax(query @ queue / 0.1, 1)
            loss = loss + F.kl_div(student, teacher, reduction="batchmean")
        error = (reconstruction - views.views["target"]).square() * (1 - visible)
        return loss + 40 * error.sum() / (1 - visible).sum()


def random_views(batch: int, frames: int = FRAMES, device: str = "cpu") -> Views:
    """Views of random samples of 105 frames, the mean of NTU RGB+D."""
    length = torch.full((batch,), 105)
    ids = torch.arange(batch)
    ragged = RaggedBatch(torch.randn(batch * 105, 2, 25, 3), length.cumsum(0) - length, length, ids, ids)
    return make_views(
        ragged, PCM3PPViewsConfig(frames=frames, clip_frames=frames // 4).spec(("joint",)), seed=0, epoch=0, step=0
    )


def our_step(objective: PCM3PP, views: Views, precision: Precision) -> Callable[[], Tensor]:
    """A call that computes the loss of a step, twins and queue with it; the queue takes its keys in the next one."""
    done: list[Outcome] = []
    progress = TrainConfig().progress(0, 0, 1)

    def loss() -> Tensor:
        if done:
            objective.after_step(done.pop())
        objective.before_step(progress)
        device = views.label.device.type
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
            done.append(objective(views, objective.draw(0, 0, 0, len(views))))
        return torch.stack(list(done[0].terms.values())).sum()

    return loss


def seconds(loss: Callable[[], Tensor], module: nn.Module) -> float:
    """Of a forward and a backward pass."""
    module.zero_grad()
    begun = time.perf_counter()
    loss().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return time.perf_counter() - begun


def compare(hidden: int, batch: int, rounds: int, queue_size: int) -> None:
    """Print the ratios of one batch size."""
    torch.manual_seed(0)
    reference = Reference(hidden, queue_size)
    pairs = ("base", "masked", "predicted", "mix")
    config = PCM3PPConfig(encoder=GRUConfig(hidden=hidden), queue_size=queue_size, pairs=pairs, prompts=False)
    ours = PCM3PP(config)
    ours.load_state_dict(from_reference_state(reference.state_dict()))
    views = random_views(batch)
    steps = {"float32": our_step(ours, views, "float32"), "bfloat16": our_step(ours, views, "bfloat16")}
    slow: list[float] = []
    took: dict[str, list[float]] = {precision: [] for precision in steps}
    with torch.no_grad():
        expected, found = reference(views), our_step(ours, views, "float32")()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    for _ in range(rounds):
        slow.append(seconds(lambda: reference(views), reference))
        for precision, step in steps.items():
            took[precision].append(seconds(step, ours))
    base = statistics.median(slow)
    print(f"PCM3, hidden {hidden}, batch {batch}: reference, frame by frame {base:.2f} s a step")
    for precision, times in took.items():
        target = TARGETS.get((precision, batch)) if hidden == 1024 else None
        beside = "" if target is None else f" (target {target}x)"
        print(f"  {precision:8}  {statistics.median(times):6.2f} s  {base / statistics.median(times):5.2f}x{beside}")


PARTS = {
    "encoders.joint.recur": "encoder, queries",
    "decoder.forward": "decoder",
    "_key_features": "key encoder",
}


@contextmanager
def timed(objective: PCM3PP, took: dict[str, float]) -> Iterator[None]:
    """Add up the seconds of the parts of forward passes."""
    undo: list[Callable[[], None]] = []
    for path, name in PARTS.items():
        owner: nn.Module = objective
        *parents, method = path.split(".")
        for parent in parents:
            owner = owner.get_submodule(parent)
        original = getattr(owner, method)

        def call(*args: object, original: Callable[..., object] = original, name: str = name) -> object:
            begun = time.perf_counter()
            result = original(*args)
            took[name] = took.get(name, 0.0) + time.perf_counter() - begun
            return result

        setattr(owner, method, call)
        undo.append(lambda owner=owner, method=method: delattr(owner, method))
    try:
        yield
    finally:
        for restore in undo:
            restore()


def parts(hidden: int, batch: int, rounds: int, queue_size: int, frames: int) -> None:
    """Print where the time of a whole step of PCM3++ goes, in both precisions."""
    objective = PCM3PP(PCM3PPConfig(encoder=GRUConfig(hidden=hidden), queue_size=queue_size))
    optimizer = torch.optim.SGD(
        [p for p in objective.parameters() if p.requires_grad], 0.01, momentum=0.9, weight_decay=1e-4, fused=True
    )
    for precision in ("float32", "bfloat16"):
        took: dict[str, float] = {}
        for number in range(rounds + 1):
            if number == 1:  # the first one warms up
                took = {}
            clock = time.perf_counter()
            views = random_views(batch, frames)
            marks = [("views of samples in memory", time.perf_counter() - clock)]
            with timed(objective, took):
                clock = time.perf_counter()
                loss = our_step(objective, views, precision)()
                whole = time.perf_counter() - clock
            marks.append(("forward, in all", whole))
            clock = time.perf_counter()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            marks.append(("backward", time.perf_counter() - clock))
            clock = time.perf_counter()
            optimizer.step()
            marks.append(("optimiser", time.perf_counter() - clock))
            for name, value in marks:
                took[name] = took.get(name, 0.0) + value
        print(f"PCM3++, hidden {hidden}, batch {batch}, {frames} frames, {precision}: milliseconds of a step")
        for name, value in took.items():
            print(f"  {1000 * value / rounds:9.1f}  {name}")


def flop_a_sample(hidden: int, queries: int, frames: int = FRAMES) -> float:
    """Floating-point operations of a step: a pass of the encoder is three for a query (forward, two backward)."""
    macs = frames * 6 * hidden * (CHANNELS + hidden + 2 * (2 * hidden + hidden))
    width = hidden // 2
    decoder = frames * (2 * hidden * width + width * width + 12 * width * width + width * CHANNELS)
    return 2 * (macs * (3 * queries + 1) + 6 * decoder)


def on_cuda(hidden: int, batch: int, rounds: int, samples: int) -> None:
    """Print the throughput of training on synthetic data of the size of NTU 60, views made on the device."""
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(30, 180, (samples,), generator=generator)
    frames = torch.randn(int(length.sum()), 2, 25, 3, dtype=torch.float16, device="cuda")
    start, length, ids = ((length.cumsum(0) - length).cuda(), length.cuda(), torch.arange(samples, device="cuda"))
    spec = PCM3PPViewsConfig().spec(("joint",))

    def random_batch(step: int, batch: int) -> Views:
        rows = torch.randint(samples, (batch,), device="cuda")
        ragged = RaggedBatch(frames, start[rows], length[rows], ids[rows], ids[rows])
        return make_views(ragged, spec, seed=0, epoch=0, step=step)

    for precision in get_args(Precision):
        with products(precision, frames.device):
            rate = _rate(hidden, batch, rounds, precision, lambda step: random_batch(step, batch))
        teraflops = flop_a_sample(hidden, len(PAIRS)) * batch * rate / 1e12
        limit = {"float32": 67, "tf32": 495, "bfloat16": 989}[precision]  # dense, of an H200, by its data sheet
        print(
            f"PCM3++ on {torch.cuda.get_device_name()}, {precision}: {rate:.2f} steps/s of batch {batch}, "
            f"{teraflops:.1f} TFLOP/s ({teraflops / limit:.0%} of an H200's {limit}), "
            f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB, {FULL_SCHEDULE / rate / 3600:.2f} h for NTU 60 xview "
            "(target 2.5, stretch 1.0)"
        )


def _rate(hidden: int, batch: int, rounds: int, precision: Precision, views: Callable[[int], Views]) -> float:
    """Steps a second, after five that warm up."""
    objective = PCM3PP(PCM3PPConfig(encoder=GRUConfig(hidden=hidden))).cuda()
    optimizer = torch.optim.SGD(
        [p for p in objective.parameters() if p.requires_grad], 0.01, momentum=0.9, weight_decay=1e-4, fused=True
    )
    torch.cuda.reset_peak_memory_stats()
    for number in range(rounds + 5):
        if number == 5:
            torch.cuda.synchronize()
            begun = time.perf_counter()
        optimizer.zero_grad()
        our_step(objective, views(number), precision)().backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
    torch.cuda.synchronize()
    return rounds / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--queue", type=int, default=16384)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.device == "cuda":
        on_cuda(options.hidden, 128, 50, 37_646)
        return
    for batch in options.batch:
        if options.parts:
            parts(options.hidden, batch, options.rounds, options.queue, options.frames)
        else:
            compare(options.hidden, batch, options.rounds, options.queue)


if __name__ == "__main__":
    main()
