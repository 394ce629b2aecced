"""How the threads of OpenMP, which torch and scikit-learn compute with, behave beside other work."""

import os

from shards.cores import count_affine_cores, count_cores

defaults: dict[str, str] = {}
"""Variables that the user has not set, as they are set here."""


def set_thread_defaults() -> None:
    """Have threads that wait sleep, and be no more than the cores that there is time for; what the user has set stays.

    Works only before torch is imported, because OpenMP reads its variables as it is loaded. By default a thread that
    waits for the others spins: beside two busy processes on two cores a training step took 9.9 s so, and 1.5 s with
    sleeping threads; on a quiet machine both take 0.3 s.
    """
    wanted = {"OMP_WAIT_POLICY": "passive"}
    if count_cores() < count_affine_cores():  # OpenMP knows the affinity of a process, but no quota of its container
        wanted["OMP_NUM_THREADS"] = str(count_cores())
    defaults.update({name: value for name, value in wanted.items() if name not in os.environ})
    os.environ |= defaults
