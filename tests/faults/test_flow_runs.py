"""Flow runs that are cancelled, or whose process, parent or host dies: none is lost, and none is worth less."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import Cancelling

from flows.options import PretrainOptions
from flows.pretrain import pretrain
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.runlog import read_log
from tests.flows.serving import PATIENCE, Serve, await_state, client, serve, submit, until
from tests.ports import free_port

EPOCHS = 40
METHOD = "pcm3pp+tiny+no-post"
OVERRIDES = (f"train.epochs={EPOCHS}", "train.milestones=[30]", "train.checkpoint_every=20")


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The parameters of a training that nobody disturbs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    pretrain(PretrainOptions.model_validate(options(store, run)))
    torch.set_num_threads(threads)
    return parameters(run)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where serves are called, one after the other."""
    return tmp_path_factory.mktemp("serve")


def options(store: Path, run: Path) -> dict[str, Any]:
    known = {"dataset": "ntu60", "protocol": "xview", "device": "cpu", "overrides": list(OVERRIDES)}
    return {"method": METHOD, "data": str(store), "run": str(run), **known}


def parameters(run: Path) -> dict[str, torch.Tensor]:
    path = latest_checkpoint(run)
    assert path is not None
    return load_checkpoint(path).objective


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def epochs(run: Path) -> int:
    return len(read_log(run))


def test_a_training_that_is_cancelled_stopped_and_killed_ends_as_an_undisturbed_one(
    place: Path, store: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    run, port = tmp_path / "run", free_port()
    asked = {"options": options(store, run), "progress": False}

    def trained(more: int) -> None:
        begun = epochs(run)
        until(lambda: epochs(run) > begun + more, served.log.read_text)

    with serve(place, port) as served, client(served.url) as api:
        first = submit(api, "pretrain/pretrain", asked)
        trained(2)
        answer = api.set_flow_run_state(first, Cancelling())
        assert answer.status == SetStateStatus.ACCEPT, str(answer)
        await_state(api, first, "Cancelled")
        assert "Crashed" not in {state.name for state in api.read_flow_run_states(first)}, "it would be run again"
        second = submit(api, "pretrain/pretrain", asked)
        trained(2)
        assert api.read_flow_run(first).state_name == "Cancelled", "it was run again"
        left = end(served, signal.SIGINT)
        assert served.process.returncode == 0, served.log.read_text()
        assert not any(alive(one) for one in left), "it left a child"
        stopped = latest_checkpoint(run)
    with serve(place, port) as served:
        trained(2)
        left = end(served, signal.SIGKILL)
        until(lambda: not any(alive(one) for one in left))
        assert epochs(run) < EPOCHS
        assert latest_checkpoint(run) != stopped, "it wrote no checkpoint when its parent died"
    with serve(place, port) as served, client(served.url) as api:
        ended = await_state(api, second, "Completed", "Failed")
        assert (ended.state_name, ended.run_count) == ("Completed", 3)
        assert api.read_flow_run(first).state_name == "Cancelled"
    assert equal(parameters(run), undisturbed)


def end(served: Serve, number: int) -> list[psutil.Process]:
    """Send a signal and wait for the end; the children it had."""
    children = served.children()
    assert len(children) >= 2  # its server and the training
    served.process.send_signal(number)
    served.process.wait(PATIENCE)
    return children


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
