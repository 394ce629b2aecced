"""What is set for OpenMP before torch is loaded, and what the user has set."""

import json
import os
import subprocess
import sys

import pytest

from flows.machine import threads
from flows.machine.threads import set_thread_defaults


def openmp(**env: str) -> dict[str, str]:
    """Variables of OpenMP in a new process that has imported the command line."""
    program = "import json, os, sys, flows; assert 'torch' not in sys.modules; print(json.dumps(dict(os.environ)))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", program], env=kept | env, capture_output=True, text=True, check=True)
    return {name: value for name, value in json.loads(done.stdout).items() if name.startswith(("OMP_", "GOMP_"))}


def test_threads_that_wait_sleep_unless_the_user_says_otherwise() -> None:
    assert openmp() == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
    assert openmp(OMP_WAIT_POLICY="active") == {"OMP_WAIT_POLICY": "active"}
    assert openmp(GOMP_SPINCOUNT="7") == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # for it to be as it was at the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "defaults", {})
    monkeypatch.setattr(threads, "count_affine_cores", lambda: 8)


@pytest.mark.usefixtures("environment")
def test_a_quota_of_the_container_limits_threads_which_openmp_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "count_cores", lambda: 2)
    set_thread_defaults()
    assert threads.defaults == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "2"}
    assert threads.defaults.items() <= os.environ.items()


@pytest.mark.usefixtures("environment")
def test_without_a_quota_openmp_counts_for_itself_and_what_the_user_has_set_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "count_cores", lambda: 8)
    os.environ["OMP_WAIT_POLICY"] = "active"
    set_thread_defaults()
    assert threads.defaults == {}
    assert (os.environ["OMP_WAIT_POLICY"], "OMP_NUM_THREADS" in os.environ) == ("active", False)
    monkeypatch.setattr(threads, "count_cores", lambda: 2)
    os.environ["OMP_NUM_THREADS"] = "5"
    set_thread_defaults()
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert threads.defaults == {}
