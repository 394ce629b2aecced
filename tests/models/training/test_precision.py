import pytest
import torch

from models.training.precision import Precision, check_precision, products
from shards.errors import ConfigError


def flags() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "inside"),
    [("tf32", ("high", True)), ("float32", ("highest", False)), ("bfloat16", ("highest", False))],
)
def test_cuda_rounds_products_on_request_alone_and_only_within(precision: Precision, inside: tuple[str, bool]) -> None:
    before = flags()
    with products(precision, torch.device("cuda")):
        assert flags() == inside
    assert flags() == before
    with pytest.raises(KeyError), products(precision, torch.device("cuda")):
        raise KeyError
    assert flags() == before


def test_a_cpu_has_no_flags_to_set() -> None:
    before = flags()
    with products("bfloat16", torch.device("cpu")):
        assert flags() == before


@pytest.mark.parametrize(
    ("precision", "capability", "native", "fits"),
    [
        ("float32", (7, 0), False, True),
        ("tf32", (7, 5), False, False),
        ("tf32", (8, 0), True, True),
        ("bfloat16", (7, 5), False, False),
        ("bfloat16", (9, 0), True, True),
    ],
)
def test_a_gpu_that_lacks_a_precision_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, capability: tuple[int, int], native: bool, fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    if fits:
        check_precision(precision, torch.device("cuda"))
        return
    with pytest.raises(ConfigError, match=f"found precision {precision} on the device Old GPU, which lacks it"):
        check_precision(precision, torch.device("cuda"))


def test_a_cpu_has_bfloat16_but_no_tf32() -> None:
    check_precision("bfloat16", torch.device("cpu"))
    with pytest.raises(ConfigError, match="found precision tf32 on the device cpu"):
        check_precision("tf32", torch.device("cpu"))
