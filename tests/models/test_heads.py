"""Projector, decoder and prompts."""

import pytest
import torch

from models.heads import Decoder, Projector, Prompts


def test_projections_lie_on_the_unit_sphere() -> None:
    torch.manual_seed(0)
    projected = Projector(16, 4)(torch.randn(5, 16))
    assert projected.shape == (5, 4)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(5))


def test_the_decoder_looks_at_earlier_frames_only() -> None:
    torch.manual_seed(0)
    decoder, features = Decoder(16, 8, 6).eval(), torch.randn(2, 7, 16)
    changed = features.clone()
    changed[:, 4:] += 1
    (before,), (after,) = decoder(features), decoder(changed)
    assert before.shape == (2, 7, 6)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_the_decoder_normalises_over_samples_and_frames() -> None:
    torch.manual_seed(0)
    decoder, features = Decoder(16, 8, 6), torch.randn(2, 7, 16)
    decoder(features)
    reduced = decoder.reduce[0](features).detach()
    torch.testing.assert_close(decoder.reduce[1].running_mean, 0.1 * reduced.mean((0, 1)))


def test_passes_of_the_decoder_together_are_passes_one_after_the_other() -> None:
    torch.manual_seed(0)
    together, apart = (Decoder(16, 8, 6).double() for _ in range(2))
    apart.load_state_dict(together.state_dict())
    features = torch.randn(3, 2, 7, 16, dtype=torch.float64)
    expected = [apart(x)[0] for x in features]
    for found, wanted in zip(together(*features), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    for name, tensor in apart.state_dict().items():
        assert torch.equal(tensor, together.state_dict()[name]), name
    assert int(together.reduce[1].num_batches_tracked) == 3


@pytest.mark.parametrize("start", [0, 2, 5])
@pytest.mark.parametrize("shape", [(2, 16), (2, 3, 16)])
def test_each_half_of_a_feature_prompt_goes_to_its_half_of_the_features(shape: tuple[int, ...], start: int) -> None:
    features, prompt = torch.zeros(shape), torch.arange(1.0, 7.0)
    expected = torch.zeros(16)
    expected[start : start + 3] = torch.tensor([1.0, 2.0, 3.0])
    expected[8 + start : 8 + start + 3] = torch.tensor([4.0, 5.0, 6.0])
    assert torch.equal(Prompts.add(features, prompt, start), expected.expand(shape))


def test_prompts_have_the_widths_of_input_and_features() -> None:
    prompts = Prompts(input_size=6, width=2)
    shapes = {name: tuple(parameter.shape) for name, parameter in prompts.named_parameters()}
    inputs = dict.fromkeys(("base", "masked", "predicted", "mix"), (6,))
    assert shapes == inputs | {"contrast": (4,), "prediction": (4,)}
    assert prompts.input("masked") is prompts.masked
