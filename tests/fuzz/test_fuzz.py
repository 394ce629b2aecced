"""Every kept case and some thousand mutated inputs of each target; `make fuzz` runs a million and more."""

from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MUTATIONS = {"manifest": 500, "tar": 1000, "archive": 1000}
INTERESTING = [b"-", b"E", b"NaN", b"1e999", b"9" * 20, b"\r", b"\0", b"\xff", b" ", b"\n", b",", b'"', b"{"]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four random edits."""
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(0, len(data) + 1)), int(rng.integers(0, 40))
        other = int(rng.integers(0, len(data) + 1))
        edits = [
            data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :],
            data[:at] + data[at + length :],
            data[:at],
            data[:at] + data[other : other + length] + data[at:],
            data[:at] + INTERESTING[int(rng.integers(len(INTERESTING)))] + data[at:],
        ]
        data = edits[int(rng.integers(len(edits)))]
    return data


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_and_every_kept_case_are_refused_or_mean_what_they_say(target: str) -> None:
    for path in sorted((CORPUS / target).glob("*")):
        TARGETS[target](path.read_bytes())
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_inputs_are_refused_or_mean_what_they_say(target: str) -> None:
    rng, start = np.random.default_rng(0), seeds(target)
    for number in range(MUTATIONS.get(target, 3000)):
        TARGETS[target](mutate(start[number % len(start)], rng))
