"""Optimisers, groups and clipping against torch's own and loops over parameters."""

import copy
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from models.encoders.gru import GRUConfig, GRUEncoder
from models.objectives.objective import Objective, ParameterGroup
from models.training.optimizers import (
    AdamConfig,
    AdamWConfig,
    OptimizerConfig,
    SGDConfig,
    build_optimizer,
    clip_gradients,
    parameter_groups,
    set_rate,
)

Config = SGDConfig | AdamConfig | AdamWConfig


class Small(Objective):
    """An encoder of three blocks and a head, without a loss."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = GRUEncoder(GRUConfig(hidden=2, layers=3, input_size=4))
            self.head = nn.Linear(4, 3)
        self.encoders = nn.ModuleDict({"joint": encoder})
        self.double()

    def set_gradients(self, seed: int, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.grad = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def built(self, config: Config, groups: Any = None, lr: float = 0.1) -> torch.optim.Optimizer:
        made, _ = parameter_groups(self, groups or self.groups(), config, {"encoders.joint.": self.encoder})
        return build_optimizer(config, made, lr)

    def fit(self, optimizer: torch.optim.Optimizer, rates: tuple[float, ...] = (0.1, 0.1, 0.03)) -> dict[str, Tensor]:
        """The parameters after a step at each rate."""
        for step, rate in enumerate(rates):
            set_rate(optimizer, rate)
            self.set_gradients(step)
            optimizer.step()
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14, msg=name)


KINDS: list[tuple[Config, type[torch.optim.Optimizer], dict[str, Any]]] = [
    (SGDConfig(), torch.optim.SGD, {"momentum": 0.9, "weight_decay": 1e-4}),
    (
        SGDConfig(momentum=0.5, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
    ),
    (AdamConfig(), torch.optim.Adam, {}),
    (
        AdamConfig(betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2),
        torch.optim.Adam,
        {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2},
    ),
    (AdamWConfig(), torch.optim.AdamW, {"betas": (0.9, 0.95), "weight_decay": 0.05}),
    (
        AdamWConfig(betas=(0.5, 0.6), eps=1e-2, weight_decay=0.3),
        torch.optim.AdamW,
        {"betas": (0.5, 0.6), "eps": 1e-2, "weight_decay": 0.3},
    ),
]


@pytest.mark.parametrize(("config", "kind", "options"), KINDS)
def test_each_kind_is_torchs_own(config: Config, kind: type[torch.optim.Optimizer], options: dict[str, Any]) -> None:
    ours, theirs = Small(), Small()
    found = ours.fit(ours.built(config))
    expected = copy.deepcopy(theirs)
    plain = kind(expected.parameters(), lr=0.1, **options)  # type: ignore[call-arg]
    for step, rate in enumerate((0.1, 0.1, 0.03)):
        plain.param_groups[0]["lr"] = rate
        expected.set_gradients(step)
        plain.step()
    assert_close(found, {name: parameter.detach() for name, parameter in expected.named_parameters()})
    assert not torch.equal(found["head.weight"], theirs.head.weight)


def test_the_first_rate_is_the_one_given() -> None:
    model = Small()
    groups = (ParameterGroup(("head.weight",), rate=0.5), ParameterGroup(("head.bias",)))
    assert [group["lr"] for group in model.built(SGDConfig(), groups, lr=0.2).param_groups] == [0.1, 0.2]


def test_the_kinds_are_told_apart_by_their_name_and_have_options_of_their_own() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(OptimizerConfig)
    for kind in get_args(get_args(OptimizerConfig)[0]):
        assert adapter.validate_python(kind().model_dump()) == kind()
    for wrong in ({"kind": "adam", "momentum": 0.9}, {"kind": "lion"}, {"kind": "sgd", "layer_decay": 0.5}, {}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SGDConfig, {"momentum": 1.0}),
        (SGDConfig, {"weight_decay": -0.1}),
        (AdamConfig, {"betas": (0.9, 1.0)}),
        (AdamConfig, {"eps": 0.0}),
        (AdamWConfig, {"layer_decay": 0.0}),
        (AdamWConfig, {"layer_decay": 1.1}),
    ],
)
def test_an_option_that_cannot_work_is_refused(kind: type[Config], options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        kind(**options)


def scales(model: Small, groups: Any, config: Config) -> dict[str, tuple[float, float]]:
    """Name of each parameter -> what multiplies its rate, and its decay."""
    made, names = parameter_groups(model, groups, config, {"encoders.joint.": model.encoder})
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        known[id(parameter)]: (group["scale"], group["weight_decay"]) for group in made for parameter in group["params"]
    }
    assert tuple(found) == names, "the names are in the order of the parameters' numbers"
    assert found.keys() == set(known.values())
    return found


def test_each_block_of_an_encoder_learns_slower_than_the_one_above_it_by_the_layer_decay() -> None:
    model = Small()
    found = scales(model, model.groups(), AdamWConfig(layer_decay=0.5))
    expected = {"encoders.joint.input_norm": 0.25, "encoders.joint.layers.0": 0.25, "head": 1.0}
    expected |= {"encoders.joint.layers.1": 0.5, "encoders.joint.layers.2": 1.0}
    seen = set()
    for name, (scale, decay) in found.items():
        (prefix,) = (prefix for prefix in expected if name.startswith(f"{prefix}."))
        assert scale == expected[prefix], name
        assert decay == 0.05
        seen.add(prefix)
    assert seen == expected.keys()


@pytest.mark.parametrize("config", [AdamWConfig(), SGDConfig(), AdamConfig(weight_decay=0.05)])
def test_without_layer_decay_all_learn_alike_in_one_group(config: Config) -> None:
    model = Small()
    assert set(scales(model, model.groups(), config).values()) == {(1.0, config.weight_decay)}
    assert len(model.built(config).param_groups) == 1


def by_bias(model: Small) -> tuple[ParameterGroup, ...]:
    """The biases without decay; those of the head at ten times the rate."""
    names = [name for name, _ in model.named_parameters()]
    biases = [name for name in names if ".bias" in name]
    return (
        ParameterGroup(tuple(name for name in names if name not in biases)),
        ParameterGroup(tuple(name for name in biases if name != "head.bias"), decay=False),
        ParameterGroup(("head.bias",), rate=10.0, decay=False),
    )


def test_the_rate_of_a_group_and_that_of_a_layer_multiply_and_a_group_may_go_without_decay() -> None:
    model = Small()
    groups = by_bias(model)
    found = scales(model, groups, AdamWConfig(layer_decay=0.1, weight_decay=0.3))
    assert found["head.weight"] == (1.0, 0.3)
    assert found["head.bias"] == (10.0, 0.0)
    assert found["encoders.joint.input_norm.weight"] == (pytest.approx(0.01), 0.3)
    assert found["encoders.joint.input_norm.bias"] == (pytest.approx(0.01), 0.0)
    assert found["encoders.joint.layers.2.first.bias_hh_l0"] == (1.0, 0.0)
    slower = tuple(ParameterGroup(group.parameters, group.rate / 2, group.decay) for group in groups)
    for name, (scale, _) in scales(model, slower, AdamWConfig(layer_decay=0.1, weight_decay=0.3)).items():
        assert scale == pytest.approx(found[name][0] / 2), name


def test_groups_step_as_adamw_written_out_for_each_parameter() -> None:
    model, config = Small(), AdamWConfig(layer_decay=0.5, weight_decay=0.3, betas=(0.9, 0.99))
    wanted = scales(model, by_bias(model), config)
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    means = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in expected.items()}
    rates, shadow = (0.1, 0.02, 0.05), Small()
    for step, rate in enumerate(rates):
        shadow.set_gradients(step)
        for name, parameter in shadow.named_parameters():
            (scale, decay), (first, second), gradient = wanted[name], means[name], parameter.grad
            assert gradient is not None
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.99).add_(0.01 * gradient**2)
            unbiased = (second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8
            value = expected[name] * (1 - rate * scale * decay)
            expected[name] = value - rate * scale * first / (1 - 0.9 ** (step + 1)) / unbiased
    assert_close(model.fit(model.built(config, by_bias(model)), rates), expected)


def test_a_parameter_without_gradient_is_in_no_group_of_its_own_accord() -> None:
    model = Small()
    model.head.requires_grad_(False)
    (group,) = model.groups()
    assert set(group.parameters) == {f"encoders.joint.{name}" for name, _ in model.encoder.named_parameters()}


def gradients(model: Small) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def length(tensors: Any) -> float:
    return float(sum(float(tensor.square().sum()) for tensor in tensors)) ** 0.5


@pytest.mark.parametrize("limit", [None, 0.5, 6.0, 1e6])
@pytest.mark.parametrize("scope", ["all", "each"])
def test_gradients_are_clipped_as_in_a_loop_over_them(limit: float | None, scope: Any) -> None:
    model = Small()
    model.set_gradients(0)
    model.head.bias.grad = None
    model.head.weight.grad.mul_(10)  # type: ignore[union-attr]
    before = gradients(model)
    total = length(before.values())
    assert clip_gradients(list(model.parameters()), limit, scope).item() == pytest.approx(total, rel=1e-12)
    after = gradients(model)
    assert model.head.bias.grad is None
    for name, gradient in before.items():
        norm = total if scope == "all" else length([gradient])
        if limit is None or norm <= limit:
            assert torch.equal(after[name], gradient), name
        else:
            torch.testing.assert_close(after[name], gradient * limit / norm, rtol=2e-6 / limit, atol=0, msg=name)
    if limit is not None:
        parts = [after.values()] if scope == "all" else [[gradient] for gradient in after.values()]
        assert all(length(part) <= limit for part in parts)


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_all_is_that_of_torch(limit: float) -> None:
    ours, theirs = Small(), Small()
    for model in (ours, theirs):
        model.set_gradients(3)
    total = torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit)
    assert torch.equal(clip_gradients(list(ours.parameters()), limit, "all"), total)
    assert_close(gradients(ours), gradients(theirs))


def test_clipping_without_any_gradient_does_nothing() -> None:
    model = Small()
    for scope in ("all", "each"):
        assert clip_gradients(list(model.parameters()), 1.0, scope).item() == 0  # type: ignore[arg-type]
