"""Seconds of one PCM3++ step on the CPU, by precision and length of the views.

    OMP_NUM_THREADS=1 python tests/benchmarks/step.py [--hidden 128] [--batch 64] [--rounds 4]

Its reference is the encoder fed one frame at a time with the state carried over, as released: printed as the ratio of
one encoder pass, forward and backward.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from models.encoders.gru import EncoderConfig, GRUEncoder
from models.objectives.pcm3pp import PCM3PP, PCM3PPConfig
from pipelines.views import make_views
from pipelines.views.methods import PCM3PPViewsConfig
from shards.batch import RaggedBatch, Views


def seconds(work: Callable[[], Tensor], rounds: int) -> float:
    """Median of forward and backward after a first call."""
    times = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        work().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def views(batch: int, frames: int) -> Views:
    length = torch.full((batch,), 100)
    ids = torch.arange(batch)
    ragged = RaggedBatch(torch.randn(batch * 100, 2, 25, 3), length.cumsum(0) - length, length, ids, ids)
    config = PCM3PPViewsConfig(frames=frames, clip_frames=frames // 4)
    return make_views(ragged, config.spec("joint"), seed=0, epoch=0, step=0)


def frame_by_frame(gru: torch.nn.GRU, x_TND: Tensor) -> Tensor:
    """The released loop: a "bidirectional" GRU called on single frames, so that both halves run forward."""
    state, y = None, x_TND[:1]
    for frame in x_TND:
        y, state = gru(frame[None], state)
    return y[-1].sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder = GRUEncoder(EncoderConfig(hidden=options.hidden))
    x = torch.randn(options.batch, 64, 150)
    loop = torch.nn.GRU(150, options.hidden, num_layers=3, bidirectional=True)
    slow = seconds(lambda: frame_by_frame(loop, x.transpose(0, 1)), options.rounds)
    fast = seconds(lambda: encoder(x)[:, -1].sum(), options.rounds)
    print(f"encoder pass: frame by frame {slow:.3f} s, fused {fast:.3f} s, {slow / fast:.2f}x")
    config = PCM3PPConfig(encoder=EncoderConfig(hidden=options.hidden), queue_size=512)
    for frames in (64, 32):
        batch, took = views(options.batch, frames), {}
        for precision in ("float32", "bfloat16"):
            objective = PCM3PP(config)

            def step(
                batch: Views = batch, objective: PCM3PP = objective, low: bool = precision == "bfloat16"
            ) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16, enabled=low, cache_enabled=False):
                    terms = objective(batch, objective.draw(0, 0, 0, len(batch)))
                return torch.stack(list(terms.values())).sum()

            took[precision] = seconds(step, options.rounds)
        ratio = took["float32"] / took["bfloat16"]
        print(
            f"step, {frames} frames: float32 {took['float32']:.2f} s, bfloat16 {took['bfloat16']:.2f} s, {ratio:.2f}x"
        )


if __name__ == "__main__":
    main()
