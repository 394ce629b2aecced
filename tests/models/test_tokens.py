"""Skeletons as tokens, and the parts of a Transformer, against loops over their entries in float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.dropout import seed_dropout
from models.tokens import Attention, Block, Positions, TokenDecoder, from_patches, patches, token_steps, visible_tokens
from shards.errors import ConfigError

N, T, PATCH = 2, 12, 4


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_entries_of_a_token_are_one_joint_of_one_person_frame_by_frame() -> None:
    x = _random(N, T, 150)
    found = patches(x, PATCH)
    assert found.shape == (N * 2, T // PATCH * 25, PATCH * 3)
    for n in range(N):
        for m in range(2):
            for step in range(T // PATCH):
                for v in range(25):
                    token = [x[n, step * PATCH + f, v * 6 + c * 2 + m].item() for f in range(PATCH) for c in range(3)]
                    assert found[n * 2 + m, step * 25 + v].tolist() == token


def test_the_entries_of_tokens_make_their_view_again() -> None:
    x = _random(N, T, 150)
    assert torch.equal(from_patches(patches(x, PATCH), PATCH), x)


def test_a_token_is_visible_if_all_its_entries_are() -> None:
    mask = torch.ones(N, T, 150, dtype=torch.bool)
    mask[1, 5, 7 * 6 + 2 * 2 + 1] = False  # frame 5, joint 7, z, person 1 of sample 1
    expected = torch.ones(N * 2, T // PATCH * 25, dtype=torch.bool)
    expected[3, 25 + 7] = False
    assert torch.equal(visible_tokens(mask, mask.shape, PATCH), expected)


def test_a_mask_of_the_whole_batch_or_of_whole_frames_serves_every_row() -> None:
    frames = torch.tensor([True] * 4 + [False] * 8)
    found = visible_tokens(frames[None, :, None], torch.Size((N, T, 150)), PATCH)
    assert torch.equal(found, torch.tensor([[True] * 25 + [False] * 50] * N * 2))


@pytest.mark.parametrize("frames", [0, 3, 122])
def test_a_view_that_is_no_multiple_of_a_token_is_refused(frames: int) -> None:
    with pytest.raises(ConfigError, match=f"found a view of {frames} frames, expected a multiple of the 4 frames"):
        token_steps(frames, PATCH)


def test_a_view_of_another_layout_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"found a view of shape \(2, 12, 75\), expected \(N, T, 150\)"):
        patches(_random(N, T, 75), PATCH)


def test_positions_are_the_sum_of_the_vectors_of_step_and_joint() -> None:
    positions = Positions(3, 5)
    found = positions(3)
    for step in range(3):
        for v in range(25):
            assert torch.equal(found[step * 25 + v], positions.times[0, step, 0] + positions.joints[0, 0, v])


@pytest.mark.parametrize("steps", [2, 6, 7])
def test_vectors_of_time_are_resized_by_the_cubic_kernel_of_other_programs(steps: int) -> None:
    positions = Positions(5, 4).double()
    nn.init.zeros_(positions.joints)
    found = positions(steps).detach().view(steps, 25, 4)[:, 0]
    for step in range(steps):
        place = (step + 0.5) * 5 / steps - 0.5
        expected = torch.zeros(4, dtype=torch.float64)
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            expected += _cubic(abs(place - tap)) * positions.times.detach()[0, min(max(tap, 0), 4), 0]
        torch.testing.assert_close(found[step], expected, rtol=0, atol=1e-12)


def _cubic(d: float, a: float = -0.75) -> float:
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def test_attention_is_that_of_torch_in_the_order_query_key_value() -> None:
    ours, theirs = Attention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    nn.init.normal_(ours.qkv.bias)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = _random(3, 6, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=0, atol=1e-12)


def test_queries_keys_and_values_may_have_no_bias() -> None:
    assert Attention(8, 2, qkv_bias=False).qkv.bias is None


def test_the_two_branches_of_a_block_skip_rows_by_draws_of_their_own() -> None:
    block = Block(8, 2, drop_path=0.5).double()
    seed_dropout(block, 0)
    x = _random(64, 3, 8)
    first = block.drop_path1(torch.ones_like(x))[:, 0, 0] == 0
    second = block.drop_path2(torch.ones_like(x))[:, 0, 0] == 0
    assert 0 < (first & second).sum() < min(first.sum(), second.sum())
    assert torch.equal(block(x)[first & second], x[first & second])


def test_a_decoder_puts_latents_in_their_places_and_its_token_in_all_others() -> None:
    decoder = TokenDecoder(6, 8, 0, 2, 5, 2).double()
    latent, ids = _random(2, 3, 6), torch.tensor([[4, 0, 49], [7, 30, 2]])
    expected = []
    for row in range(2):
        for token in range(50):
            places = ids[row].tolist()
            here = decoder.mask_token[0, 0]
            if token in places:
                here = decoder.embedding(latent[row, places.index(token)])
            place = decoder.positions.times[0, token // 25, 0] + decoder.positions.joints[0, 0, token % 25]
            expected.append(decoder.head(decoder.norm(here + place)))
    torch.testing.assert_close(decoder(latent, ids, 2), torch.stack(expected).view(2, 50, 5), rtol=0, atol=1e-12)


def test_linear_layers_of_a_decoder_start_xavier_uniform_without_bias() -> None:
    decoder = TokenDecoder(100, 200, 1, 2, 50, 3)
    for layer, fan in (
        (decoder.embedding, 300),
        (decoder.layers[0].get_submodule("mlp.fc1"), 1000),
        (decoder.head, 250),
    ):
        assert isinstance(layer, nn.Linear)
        assert 0.99 * math.sqrt(6 / fan) < layer.weight.abs().max() <= math.sqrt(6 / fan)
        assert not layer.bias.any()
    for tensor in (decoder.mask_token, decoder.positions.joints, decoder.positions.times):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.15)
