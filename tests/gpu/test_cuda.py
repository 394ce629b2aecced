"""The same work on a CUDA device as on the CPU. Needs no network and no data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.build import build_objective
from flows.config import DataConfig
from flows.recipes import recipe
from flows.recipes.method import METHODS
from flows.recipes.pcm3 import PCM3PPViewsConfig
from models.encoders.gru import GRUConfig, GRUEncoder
from models.evaluation.features import extract_features
from models.objectives.pcm3pp import PCM3PP, PCM3PPConfig
from models.training.engine import train
from models.training.schedule import TrainConfig
from pipelines.augmentations.draws import uniform
from pipelines.views import make_views
from pipelines.views.downstream import evaluation_spec
from shards.batch import RaggedBatch, Views

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

DEFAULT = PCM3PPViewsConfig()
CONFIG = PCM3PPConfig(encoder=GRUConfig(hidden=64), queue_size=256)


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """TF32 products differ from float32 by about 1e-3: off for comparisons."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def ragged(device: str, samples: int = 16) -> RaggedBatch:
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(1, 150, (samples,), generator=generator)
    frames = torch.randn(int(length.sum()), 2, 25, 3, generator=generator)
    ids = torch.arange(samples) * 7
    return RaggedBatch(
        *(t.to(device) for t in (frames, length.cumsum(0) - length, length, torch.arange(samples) % 5, ids))
    )


def views(device: str, step: int = 0, config: PCM3PPViewsConfig = DEFAULT) -> Views:
    return make_views(ragged(device), config.spec(("joint",)), seed=3, epoch=1, step=step)


def test_draws_are_the_same_bits_on_both_devices() -> None:
    ids = torch.arange(1000)
    cpu, cuda = (uniform(1, 2, ids.to(device), "base", "crop", 8).cpu() for device in ("cpu", "cuda"))
    assert torch.equal(cpu, cuda)


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_views_are_equal_on_both_devices(scope: Any) -> None:
    config = PCM3PPViewsConfig(mix_scope=scope, mask_scope=scope)
    cpu, cuda = views("cpu", config=config), views("cuda", config=config)
    for name, view in cpu.views.items():
        torch.testing.assert_close(cuda.views[name].cpu(), view, atol=1e-5, rtol=1e-5, msg=name)


def test_a_step_gives_the_terms_and_gradients_of_the_cpu() -> None:
    results = {}
    for device in ("cpu", "cuda"):
        objective = PCM3PP(CONFIG, seed=0).to(device)
        objective.before_step(TrainConfig().progress(0, 0, 1))
        outcome = objective(views(device), objective.draw(0, 0, 0, 16))
        terms = outcome.terms
        torch.stack(list(terms.values())).sum().backward()
        objective.after_step(outcome)
        results[device] = (
            {name: term.detach().cpu() for name, term in terms.items()},
            {name: p.grad.norm().cpu() for name, p in objective.named_parameters() if p.grad is not None},
            objective.queue.keys.cpu(),
        )
    torch.testing.assert_close(results["cuda"], results["cpu"], atol=1e-3, rtol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_every_method_gives_the_terms_and_gradients_of_the_cpu(method: str) -> None:
    config = recipe(f"{method}+tiny", DataConfig(dataset="ntu60", protocol="xview"))
    results = {}
    for device in ("cpu", "cuda"):
        objective = build_objective(config).to(device)
        spec = config.views.spec(config.data.streams)
        batch = make_views(ragged(device, config.train.batch_size), spec, seed=3, epoch=0, step=0)
        # evaluation mode: each device draws its own dropout
        outcome = objective.eval()(batch, objective.draw(0, 0, 0, len(batch)))
        torch.stack(list(outcome.terms.values())).sum().backward()
        results[device] = (
            {name: term.detach().cpu() for name, term in outcome.terms.items()},
            {name: p.grad.norm().cpu() for name, p in objective.named_parameters() if p.grad is not None},
        )
    torch.testing.assert_close(results["cuda"], results["cpu"], atol=1e-3, rtol=5e-3)


class _Epochs:
    """Two steps an epoch."""

    def __len__(self) -> int:
        return 2

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        for step in range(first_step, 2):
            yield views("cuda", step)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_training_runs_on_the_device_and_resumes(tmp_path: Path, precision: str) -> None:
    for epochs in (1, 2):
        config = TrainConfig.model_validate({"epochs": epochs, "batch_size": 16, "precision": precision})
        result = train(
            PCM3PP(CONFIG, seed=0).to("cuda"), _Epochs(), config, tmp_path, meta={"fingerprint": "f"},
            resume=epochs > 1, probe=None, device="cuda", progress=False,
        )  # fmt: skip
    assert result.steps == 4


@pytest.mark.parametrize("direction", ["parallel_forward", "bidirectional"])
def test_the_encoder_gives_the_outputs_and_gradients_of_the_cpu_also_from_two_streams(direction: str) -> None:
    found = {}
    x = torch.randn(12, 30, 150, generator=torch.Generator().manual_seed(0))
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        encoder = GRUEncoder(GRUConfig.model_validate({"hidden": 96, "direction": direction})).to(device)
        for _ in range(3):  # memory of one stream given to the other too early would show in a later turn
            encoder.zero_grad()
            y = encoder(x.to(device)).frames
            y.square().sum().backward()
        found[device] = [y.detach().cpu(), *(p.grad.cpu() for p in encoder.parameters() if p.grad is not None)]
    for ours, expected in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-4 * float(expected.abs().max()), rtol=0)


def test_features_are_equal_on_both_devices() -> None:
    found = {}
    for device in ("cpu", "cuda"):
        encoder = PCM3PP(CONFIG, seed=0).encoder.to(device)
        batch = make_views(ragged(device), evaluation_spec("centre", "joint"), seed=0, epoch=0, step=0)
        found[device] = extract_features(encoder, iter([batch]), device=device).values.cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_step_never_waits_for_the_device(tmp_path: Path, precision: str) -> None:
    class Prepared:
        """Eight batches that are there already; from the third step on, waiting for the device is an error."""

        batches = [views("cuda", step) for step in range(8)]

        def __len__(self) -> int:
            return len(self.batches)

        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
            try:
                for step, batch in enumerate(self.batches):
                    # the first two make buffers and choose kernels; the monitor reads after ten, which never come
                    torch.cuda.set_sync_debug_mode("error" if step >= 2 else "default")
                    yield batch
            finally:
                torch.cuda.set_sync_debug_mode("default")

    config = TrainConfig.model_validate({"epochs": 1, "batch_size": 16, "precision": precision, "log_every": 50})
    objective = PCM3PP(CONFIG, seed=0)
    assert train(objective, Prepared(), config, tmp_path, meta={"fingerprint": "f"}, device="cuda").steps == 8
