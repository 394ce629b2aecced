"""Seconds of a training step beside busy processes, by how its OpenMP threads are set up.

    python tests/benchmarks/busy.py [--busy 2] [--hidden 128] [--batch 64] [--steps 4] [--rounds 2]

The rows, each in a process of its own, take turns, first on the machine as it is and then beside loops that never rest:
the defaults of skelstream, a single thread, threads that sleep as soon as they wait, and threads that spin while they
wait. OpenMP's own default lies between the last two, and was seen to take 34 s for a step beside two loops. It fails
when the defaults take more than twice the time of a single thread beside the loops.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ROWS: dict[str, dict[str, str]] = {
    "defaults": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "threads that sleep": {"GOMP_SPINCOUNT": "0"},
    "threads that spin": {"OMP_WAIT_POLICY": "active"},
}
MOST = 2.0

STEP = """
import statistics, sys, time
import flows  # settles the threads
import torch
from models.encoders.gru import GRUConfig
from models.objectives.pcm3pp import PCM3PPConfig
from tests.benchmarks.training import our_step, random_views, seconds
from models.objectives.pcm3pp import PCM3PP
hidden, batch, steps = map(int, sys.argv[1:])
torch.manual_seed(0)
objective = PCM3PP(PCM3PPConfig(encoder=GRUConfig(hidden=hidden), queue_size=16 * batch))
loss = our_step(objective, random_views(batch), "float32")
seconds(loss, objective)
print(statistics.median(seconds(loss, objective) for _ in range(steps)))
"""


def measure(env: dict[str, str], arguments: list[str]) -> float:
    """Median seconds of a step in a new process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", STEP, *arguments]
    done = subprocess.run(command, env=kept | env | {"PYTHONPATH": "."}, capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("busy", 2), ("hidden", 128), ("batch", 64), ("steps", 4), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    arguments = [str(options.hidden), str(options.batch), str(options.steps)]
    found: dict[tuple[str, int], float] = {}
    for count in (0, options.busy):
        with busy(count):
            times = {name: [measure(env, arguments) for _ in range(options.rounds)] for name, env in ROWS.items()}
        found |= {(name, count): statistics.median(values) for name, values in times.items()}
    print(f"{'seconds of a step':20}{'alone':>10}{f'beside {options.busy}':>12}")
    for name in ROWS:
        print(f"{name:20}{found[name, 0]:10.3f}{found[name, options.busy]:12.3f}")
    ratio = found["defaults", options.busy] / found["one thread", options.busy]
    print(f"defaults against one thread beside {options.busy}: {ratio:.2f}, at most {MOST}")
    if ratio > MOST:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
