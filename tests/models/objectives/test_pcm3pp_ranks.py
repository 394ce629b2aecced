"""PCM3++ in several ranks is PCM3++ in one process with the joint batch: float64, two steps, all pairs."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from models.collectives import rank, world_size
from models.encoders.gru import GRUConfig
from models.objectives.pcm3pp import PAIRS, PCM3PP, PCM3PPConfig
from shards.batch import Views
from tests.models.standins import PROGRESS, push_keys

N, T, D, STEPS, RATE = 6, 6, 6, 2, 0.5

TINY = PCM3PPConfig(
    encoder=GRUConfig(hidden=8, layers=2, input_size=D), feature_dim=5, queue_size=15, prompt_width=3, momentum=0.9
)
CONFIGS = {
    "published": {},
    "as released": {"encoder": TINY.encoder.model_copy(update={"prompt_place": "before_norm"})},
    "bone and motion": {"guidance": False, "prompts": False},
    "unpublished options": {"clip_queue": True, "input_statistics": "base_view", "distillation_top_k": 4},
}


def views(step: int) -> Views:
    """This rank's block of a global batch whose samples hide unequal numbers of entries, one of them none."""
    generator = torch.Generator().manual_seed(step)
    made = {
        name: torch.randn(N, T, D, dtype=torch.float64, generator=generator)
        for name in ("base", "key", "target", "mix", "clip")
    }
    visible = torch.rand(N, T, D, generator=generator) > torch.linspace(0, 0.9, N)[:, None, None]
    made["masked"] = made["target"] * visible
    partner = torch.tensor([3, 5, 4, 1, 0, 2])  # all but one in the other half of the batch
    weight = torch.rand(N, generator=generator)
    own = slice(N * rank() // world_size(), N * (rank() + 1) // world_size())
    return Views(
        {name: view[own] for name, view in made.items()},
        torch.zeros(N, dtype=torch.int64)[own],
        torch.arange(N)[own],
        {"masked": visible[own]},
        partner[own],
        weight[own],
    )


def mean_over_ranks(x: Tensor) -> Tensor:
    total = x.clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def tell(model: PCM3PP, step: int) -> Iterator[tuple[str, Tensor]]:
    """One step with gradients averaged over the ranks, as DistributedDataParallel does; all there is to compare."""
    batch = views(step)
    model.zero_grad()
    model.before_step(PROGRESS)
    output = model.step(batch, model.draw(0, 0, step, len(batch)))
    torch.stack(list(output.terms.values())).sum().backward()
    push_keys(model, output)
    for name, term in output.terms.items():
        yield f"term {name}", mean_over_ranks(term.detach())
    for pair in PAIRS:
        yield f"rows similarity {pair}", output.similarity[pair].detach()
        yield f"rows teacher {pair}", output.teacher[pair]
    assert output.reconstruction is not None
    yield "rows reconstruction", output.reconstruction.detach()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parameter.grad = mean_over_ranks(parameter.grad)
            yield f"gradient {name}", parameter.grad.clone()
            parameter.data.sub_(parameter.grad, alpha=RATE)
    for name, value in model.state_dict().items():
        yield f"state {name}", value.clone()


def fit(config: PCM3PPConfig) -> dict[str, Tensor]:
    model = PCM3PP(config, seed=3).double()
    return {f"{step} {name}": value for step in range(STEPS) for name, value in tell(model, step)}


def fits() -> dict[str, dict[str, Tensor]]:
    """The steps of every configuration, in the block of this rank."""
    return {name: fit(PCM3PPConfig(**(TINY.model_dump() | changes))) for name, changes in CONFIGS.items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    return fits()


@pytest.fixture(scope="module")
def ranks(in_ranks: Callable[..., Any]) -> list[dict[str, dict[str, Tensor]]]:
    return list(in_ranks(fits, 2))


@pytest.mark.parametrize("config", CONFIGS)
def test_ranks_take_the_step_of_one_process_with_the_joint_batch(
    config: str, alone: dict[str, dict[str, Tensor]], ranks: list[dict[str, dict[str, Tensor]]]
) -> None:
    expected = alone[config]
    assert {"1 state queue.keys", "1 state key_encoder.input_norm.running_mean"} <= expected.keys()
    for found in ranks:
        assert found[config].keys() == expected.keys()
    for name, value in expected.items():
        parts = [found[config][name] for found in ranks]
        joint = torch.cat(parts) if " rows " in name else parts[0]
        torch.testing.assert_close(joint, value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_rank_ends_with_the_same_bits(config: str, ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    first, *others = (found[config] for found in ranks)
    for name, value in first.items():
        if " rows " not in name:
            assert all(torch.equal(other[name], value) for other in others), name


def test_the_steps_move_everything_that_is_compared(alone: dict[str, dict[str, Tensor]]) -> None:
    steps = alone["published"]
    still = {name for name, value in steps.items() if name[0] == "1" and torch.equal(value, steps["0" + name[1:]])}
    assert still == set()
    assert all(value.abs().max() > 0 for name, value in steps.items() if " gradient " in name)
