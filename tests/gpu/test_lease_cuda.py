"""Leases on a real GPU."""

from pathlib import Path

import pytest
import torch

from flows.machine import gpus as lease
from flows.machine.gpus import gpu_names, held, lease_gpus
from shards.errors import ConfigError

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_a_gpu_is_leased_by_its_uuid_and_computed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lease.FOLDER, str(tmp_path))
    names = gpu_names()
    assert len(set(names)) == torch.cuda.device_count()
    with lease_gpus(torch.device("cuda"), about="test") as (device,):
        assert device.index == torch.cuda.current_device()
        assert torch.ones(2, device=device).sum().item() == 2
        assert (tmp_path / names[device.index]).is_file()
        name = [names[device.index]]
        with pytest.raises(ConfigError, match=f"GPU {name[0]} held by"), held(name, 1, about="", wait=False):
            pass
