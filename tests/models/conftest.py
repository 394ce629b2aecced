"""Several ranks in a test: processes of their own on this machine, joined by gloo."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

# FILE FUNCTION FOLDER RANK WORLD: what the function of the file returns lies in FOLDER/RANK.pt
PROGRAM = """
import importlib.util, sys
import torch
import torch.distributed as dist

file, name, folder, rank, world = sys.argv[1:]
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("in_ranks", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=int(world))
torch.save(getattr(module, name)(), f"{folder}/{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""

InRanks = Callable[[Callable[[], Any], int], list[Any]]


@pytest.fixture(scope="session")
def in_ranks(tmp_path_factory: pytest.TempPathFactory) -> InRanks:
    """Call a function of a test file, without arguments, in that many ranks; what each returned, rank 0's first."""

    def call(function: Callable[[], Any], world: int) -> list[Any]:
        folder = tmp_path_factory.mktemp("ranks")
        arguments = [inspect.getfile(function), function.__name__, str(folder)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", PROGRAM, *arguments, str(rank), str(world)],
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * world, "\n".join(errors)
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]

    return call
