"""In which precision the products of a run are computed; its parameters, losses and optimiser state stay float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from shards.errors import ConfigError

Precision = Literal["float32", "tf32", "bfloat16"]


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that the device lacks.

    Raises:
        ConfigError: "tf32" without CUDA or on a GPU older than Ampere, "bfloat16" on a GPU that would emulate it.
    """
    if device.type != "cuda":
        lacking = precision == "tf32"
    elif precision == "tf32":
        lacking = torch.cuda.get_device_capability(device) < (8, 0)
    else:
        lacking = precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if lacking:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise ConfigError(f"found precision {precision} on the device {name}, which lacks it; expected float32")


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Let CUDA round the inputs of float32 products to TF32, or forbid it: torch allows it in cuDNN unasked."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
