"""How the threads of OpenMP, which torch and scikit-learn compute with, behave beside other work."""

import os

from shards.cores import count_affine_cores, count_cores

_SPINS = "1000"  # of GNU's OpenMP, which torch uses on Linux; there it counts instead of the policy

defaults: dict[str, str] = {}
"""Variables that the user has not set, as they are set here."""


def set_thread_defaults() -> None:
    """Have threads that wait sleep, and be no more than the cores that there is time for; what the user has set stays.

    Works only before torch is imported, because OpenMP reads its variables as it is loaded. By default a thread that
    waits for the others spins for milliseconds, and takes the core from them where there is other work: beside two
    busy processes on two cores a training step of 0.9 s took 3.2 to 34 s. With threads that sleep at once it takes 1.5
    to 1.9 s there, but 1.2 s on a quiet machine; 1,000 spins, some microseconds, before they sleep make it 1.9 to 2.1
    and 0.85 to 0.9 s. One thread alone takes 2.1 and 1.4 s (`tests/benchmarks/busy.py`).
    """
    wanted = {} if "OMP_WAIT_POLICY" in os.environ else {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": _SPINS}
    if count_cores() < count_affine_cores():  # OpenMP knows the affinity of a process, but no quota of its container
        wanted["OMP_NUM_THREADS"] = str(count_cores())
    defaults.update({name: value for name, value in wanted.items() if name not in os.environ})
    os.environ |= defaults
