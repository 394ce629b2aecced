"""The ST-GCN encoder against loops over joints and frames, its pooling, its names and its options."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models.dropout import seed_dropout
from models.encoders.encoder import ENCODERS
from models.encoders.stgcn import (
    STGCN,
    Block,
    GraphConvolution,
    STGCNConfig,
    from_reference_name,
    from_reference_state,
    spatial_adjacency,
)
from models.norm import GlobalBatchNorm
from shards.errors import CheckpointError, ConfigError
from shards.skeleton import FRAME_SIZE, PARENTS

TINY = STGCNConfig(width=2, feature=6)
V, C, M = 25, 3, 2


def _encoder(**options: Any) -> STGCN:
    """A tiny encoder in evaluation, whose weights and statistics let every part show."""
    torch.manual_seed(0)
    encoder = TINY.model_copy(update=options).build().double().eval()
    _scatter(encoder)
    return encoder


@torch.no_grad()
def _scatter(module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        if name.endswith(("running_var", "norm.weight", "importance")):
            tensor.uniform_(0.5, 2)
        elif tensor.dim() == 4:  # of a convolution
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point() and name != "adjacency":
            tensor.normal_(0, 0.3)


def _view(n: int = 3, frames: int = 9, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, frames, FRAME_SIZE, dtype=torch.float64, generator=generator)


def _persons(x_NTD: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of each person, (N, T, V*C); writing to them writes to the view."""
    first, second = x_NTD.view(*x_NTD.shape[:2], V * C, M).unbind(-1)
    return first, second


def test_the_graph_convolution_equals_loops_over_joints_and_subsets() -> None:
    torch.manual_seed(0)
    graph, adjacency = GraphConvolution(3, 4, 3).double(), torch.randn(3, V, V).double()
    x = torch.randn(2, 3, 5, V).double()
    weight, bias = graph.convolution.weight[:, :, 0, 0], graph.convolution.bias
    expected = torch.zeros(2, 4, 5, V).double()
    for v in range(V):
        for w in range(V):
            for subset in range(3):
                rows = slice(4 * subset, 4 * (subset + 1))
                value = torch.einsum("nct,dc->ndt", x[..., v], weight[rows]) + bias[rows][:, None]
                expected[..., w] += value * adjacency[subset, v, w]
    torch.testing.assert_close(graph(x, adjacency), expected, rtol=0, atol=1e-12)


def _normalised(x: Tensor, norm: GlobalBatchNorm) -> Tensor:
    mean, var, weight, bias = (
        tensor[:, None, None] for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


@pytest.mark.parametrize(
    ("channels", "stride", "first"), [(2, 1, True), (2, 1, False), (4, 1, False), (4, 2, False), (2, 2, False)]
)
def test_a_block_equals_its_formula_frame_by_frame(channels: int, stride: int, first: bool) -> None:
    torch.manual_seed(0)
    block = Block(channels, 4, TINY, subsets=3, stride=stride, first=first).double().eval()
    _scatter(block)
    x, adjacency = torch.randn(2, channels, 7, V).double(), torch.from_numpy(spatial_adjacency()).double()
    y = _normalised(block.graph(x, adjacency * block.importance), block.graph_norm).relu()
    frames = []
    for centre in range(0, 7, stride):
        frame = block.temporal.bias[:, None].expand(2, 4, V)
        for tap in range(9):
            if 0 <= centre + tap - 4 < 7:
                frame = frame + torch.einsum(
                    "ncv,dc->ndv", y[:, :, centre + tap - 4], block.temporal.weight[..., tap, 0]
                )
        frames.append(frame)
    expected = _normalised(torch.stack(frames, 2), block.temporal_norm)
    if (channels, stride, first) == (4, 1, False):
        expected = expected + x
    elif not first:
        projected = torch.einsum("nctv,dc->ndtv", x, block.shortcut.convolution.weight[..., 0, 0])
        projected = (projected + block.shortcut.convolution.bias[:, None, None])[:, :, ::stride]
        expected = expected + _normalised(projected, block.shortcut.norm)
    torch.testing.assert_close(block(x, adjacency), expected.relu(), rtol=0, atol=1e-12)


def test_the_adjacency_holds_loops_and_bones_and_only_eight_entries_towards_the_rim() -> None:
    adjacency = spatial_adjacency()
    assert [int((subset != 0).sum()) for subset in adjacency] == [25, 40, 8]
    bones = {(child, parent) for child, parent in enumerate(PARENTS) if child != parent}
    entries = [{tuple(entry) for entry in subset.nonzero().tolist()} for subset in torch.from_numpy(adjacency)]
    assert entries[0] == {(joint, joint) for joint in range(V)}
    assert entries[1] | entries[2] == bones | {(parent, child) for child, parent in bones}
    assert entries[2] == {(20, 1), (20, 2), (20, 4), (20, 8), (1, 0), (2, 3), (4, 5), (8, 9)}
    assert adjacency.sum((0, 1)) == pytest.approx(1)
    for column in range(V):
        assert len(set(adjacency[adjacency[:, :, column] != 0, column].tolist())) == 1


def test_each_coordinate_of_a_joint_is_normalised_over_samples_persons_and_frames() -> None:
    encoder, x = _encoder().train(), _view()
    encoder.input_norm.reset_running_stats()
    encoder(x)
    for joint in range(V):
        for coordinate in range(C):
            values = x.view(3, 9, V, C, M)[:, :, joint, coordinate]
            mean = encoder.input_norm.running_mean[C * joint + coordinate]
            assert float(mean) == pytest.approx(0.1 * float(values.mean()), abs=1e-12)


@pytest.mark.parametrize("persons", ["released", "present"])
def test_the_order_of_the_persons_does_not_matter(persons: str) -> None:
    encoder, x = _encoder(persons=persons), _view()
    _persons(x)[1][0] = 0
    swapped = x.view(3, 9, -1, M).flip(-1).reshape_as(x)
    torch.testing.assert_close(encoder(swapped).frames, encoder(x).frames, rtol=0, atol=1e-12)


@pytest.mark.parametrize("absent", [0, 1])
def test_an_absent_person_counts_as_released_and_not_where_present_ones_are_asked_for(absent: int) -> None:
    x, twice = _view(), _view()
    _persons(x)[absent].zero_()
    _persons(twice)[absent].copy_(_persons(twice)[1 - absent])
    for persons, counts in (("released", True), ("present", False)):
        encoder = _encoder(persons=persons)
        difference = (encoder(x).feature - encoder(twice).feature).abs().amax(1)
        assert (difference.gt(1e-2) if counts else difference.lt(1e-12)).all()


def test_present_persons_differ_from_the_released_mean_in_pooling_alone() -> None:
    released, present = (_encoder(persons=persons, dropout=0).train() for persons in ("released", "present"))
    x = _view()
    assert torch.equal(released(x).feature, present(x).feature)
    _persons(x)[1][0] = 0
    assert not torch.equal(released(x).feature[0], present(x).feature[0])
    assert torch.equal(released.maps(x), present.maps(x))
    for name, tensor in released.state_dict().items():
        assert torch.equal(tensor, present.state_dict()[name]), name


def test_a_sample_without_anybody_is_the_mean_of_both_as_released() -> None:
    x = torch.zeros(2, 9, FRAME_SIZE, dtype=torch.float64)
    found, expected = _encoder(persons="present")(x).feature, _encoder()(x).feature
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 13, 50])
def test_every_fourth_frame_has_a_feature_and_their_mean_is_that_of_the_sample(frames: int) -> None:
    encoder = _encoder()
    encoded = encoder(_view(frames=frames))
    assert encoder.stride == 4
    assert encoded.frames.shape == (3, -(-frames // encoder.stride), encoder.width)
    torch.testing.assert_close(encoded.feature, encoded.frames.mean(1), rtol=0, atol=1e-12)


def test_the_feature_is_the_mean_of_the_maps_over_frames_joints_and_persons() -> None:
    encoder, x = _encoder(), _view()
    expected = encoder.maps(x).view(3, M, encoder.width, -1).mean((1, 3))
    torch.testing.assert_close(encoder(x).feature, expected, rtol=0, atol=1e-12)


def test_inner_layers_are_pooled_alike_and_those_above_are_not_run() -> None:
    encoder, x = _encoder(), _view()
    run: list[int] = []
    for number, block in enumerate(encoder.layers, 1):
        block.register_forward_hook(lambda _block, _x, _y, number=number: run.append(number))
    assert encoder.layer_names == tuple(f"block{number}" for number in range(1, 10))
    for number, (name, block) in enumerate(zip(encoder.layer_names, encoder.layers, strict=False), 1):
        run.clear()
        feature = encoder.layer(x, name)
        assert run == list(range(1, number + 1))
        expected = encoder.maps(x, number).view(3, M, block.temporal.out_channels, -1).mean((1, 3))
        torch.testing.assert_close(feature, expected, rtol=0, atol=1e-12)
    assert torch.equal(encoder.layer(x, "last"), encoder(x).feature)


def test_an_unknown_layer_and_frames_of_another_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="found layer 'block10', expected one of block1, "):
        _encoder().layer(_view(), "block10")
    with pytest.raises(ConfigError, match="found frames of 149 entries"):
        _encoder()(_view()[..., 1:])


def test_every_parameter_is_in_one_group_and_groups_freeze_from_the_input_on() -> None:
    encoder = _encoder()
    groups = [encoder.block_of(name) for name, _ in encoder.named_parameters()]
    assert sorted(set(groups)) == list(range(10))
    assert encoder.block_of("input_norm.bias") == encoder.block_of("layers.0.graph.convolution.weight") == 0
    assert encoder.block_of("layers.2.temporal.weight") == encoder.block_of("layers.2.importance") == 2
    encoder.freeze(3)
    trained = {encoder.block_of(name) for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == set(range(3, 10))


def test_dropout_is_in_all_blocks_but_the_first_and_follows_its_seed() -> None:
    encoder, x = _encoder().train(), _view()
    outputs = []
    for seed in (0, 0, 1):
        seed_dropout(encoder, seed)
        outputs.append([encoder.maps(x, blocks) for blocks in (1, 2, 10)])
    first, same, other = outputs
    assert [torch.equal(*pair) for pair in zip(first, same, strict=True)] == [True, True, True]
    assert [torch.equal(*pair) for pair in zip(first, other, strict=True)] == [True, False, False]
    encoder.eval()
    assert torch.equal(encoder(x).feature, encoder(x).feature)


def test_initial_values_are_those_of_the_released_trainer() -> None:
    torch.manual_seed(0)
    for name, parameter in STGCNConfig(width=64).build().named_parameters():
        owner, _, kind = name.rpartition(".")
        values, in_norm = parameter.detach(), owner.endswith("norm")
        if kind == "importance":
            assert torch.equal(values, torch.ones(3, V, V))
        elif kind == "bias":
            assert not values.any(), name
        else:
            assert float(values.mean()) == pytest.approx(float(in_norm), abs=0.08 / values.numel() ** 0.5), name
            assert float(values.std()) == pytest.approx(0.02, rel=4 / (2 * values.numel()) ** 0.5), name


@pytest.mark.parametrize(("width", "parameters"), [(16, 821_380), (64, 3_083_412)])
def test_the_parameters_are_as_many_as_published(width: int, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in STGCNConfig(width=width).build().parameters()) == parameters


def test_without_importance_the_entries_of_the_adjacency_count_as_they_are() -> None:
    plain, learnt, x = _encoder(importance=False), _encoder(), _view()
    state = learnt.state_dict()
    factors = state.keys() - plain.state_dict().keys()
    assert factors == {f"layers.{number}.importance" for number in range(10)}
    learnt.load_state_dict(plain.state_dict() | {name: torch.ones_like(state[name]) for name in factors})
    assert torch.equal(plain(x).feature, learnt(x).feature)


def test_bfloat16_products_give_float32_features_near_those_of_float32() -> None:
    encoder, x = _encoder(dropout=0).float().train(), _view(8).float()
    expected = encoder(x).feature
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(x)
    assert found.feature.dtype == found.frames.dtype == torch.float32
    assert (found.feature - expected).norm() < 0.05 * expected.norm()
    found.feature.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_the_graph_of_an_exported_encoder_takes_any_batch_and_length() -> None:
    encoder, free = _encoder(persons="present"), torch.export.Dim.DYNAMIC
    exported = torch.export.export(encoder, (_view(),), dynamic_shapes={"x_NTD": {0: free, 1: free}})
    x = _view(5, 14)
    _persons(x)[1][2] = 0
    torch.testing.assert_close(exported.module()(x), encoder(x), rtol=0, atol=1e-12)


def test_the_names_of_a_released_encoder_are_all_of_ours() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["A", *(f"data_bn.{entry}" for entry in norm)]
    for number in range(10):
        names.append(f"edge_importance.{number}")
        residual = number in (4, 7, 9)
        for part in ("gcn.conv", "tcn.2", *(["residual.0"] if residual else [])):
            names += [f"st_gcn_networks.{number}.{part}.{entry}" for entry in ("weight", "bias")]
        for part in ("tcn.0", "tcn.3", *(["residual.1"] if residual else [])):
            names += [f"st_gcn_networks.{number}.{part}.{entry}" for entry in norm]
    state = from_reference_state(dict.fromkeys(names, torch.zeros(())))
    assert len(state) == len(names)
    assert state.keys() == _encoder().state_dict().keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A", "adjacency"),
        ("data_bn.running_mean", "input_norm.running_mean"),
        ("edge_importance.4", "layers.4.importance"),
        ("st_gcn_networks.4.gcn.conv.bias", "layers.4.graph.convolution.bias"),
        ("st_gcn_networks.4.tcn.0.weight", "layers.4.graph_norm.weight"),
        ("st_gcn_networks.4.tcn.2.weight", "layers.4.temporal.weight"),
        ("st_gcn_networks.4.tcn.3.weight", "layers.4.temporal_norm.weight"),
        ("st_gcn_networks.4.residual.0.weight", "layers.4.shortcut.convolution.weight"),
        ("st_gcn_networks.4.residual.1.weight", "layers.4.shortcut.norm.weight"),
    ],
)
def test_reference_names_are_translated(name: str, expected: str) -> None:
    assert from_reference_name(name) == expected


def test_hiclr_counts_its_importances_from_one() -> None:
    names = [from_reference_name(f"edge_importance{number}") for number in range(1, 11)]
    assert names == [from_reference_name(f"edge_importance.{number}") for number in range(10)]


@pytest.mark.parametrize("name", ["fc.0.weight", "encoder_q.A", "st_gcn_networks.0.tcn.1.weight", "edge_importance"])
def test_an_unknown_reference_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"entry '{name}' found"):
        from_reference_name(name)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0},
        {"feature": 0},
        {"dropout": 1.0},
        {"temporal_kernel": 4},
        {"temporal_kernel": -1},
        {"persons": "first"},
        {"hidden": 3},
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        STGCNConfig(**options)


def test_the_encoder_is_found_by_its_kind() -> None:
    assert ENCODERS.find("stgcn") is STGCNConfig
    assert isinstance(STGCNConfig().build(), STGCN)
