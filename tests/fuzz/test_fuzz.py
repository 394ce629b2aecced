"""Every kept case and some thousand mutated inputs of each target; `make fuzz` runs a million and more."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutators import TOKENS, mutate, tar
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MUTATIONS = 3000


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_and_every_kept_case_are_refused_or_mean_what_they_say(target: str) -> None:
    kept = sorted((CORPUS / target).glob("*"))
    assert kept
    for case in [*seeds(target), *(path.read_bytes() for path in kept)]:
        TARGETS[target](case)


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_inputs_are_refused_or_mean_what_they_say(target: str) -> None:
    rng, start = random.Random(0), seeds(target)
    for number in range(MUTATIONS):
        TARGETS[target](mutate(target, start[number % len(start)], rng))


NUMBERS = st.one_of(
    st.sampled_from([token.decode("latin-1") for token in TOKENS]),
    st.floats().map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.from_regex(r"[-+]?[0-9]{0,20}\.?[0-9]{0,25}([eE][-+]?[0-9]{1,4})?", fullmatch=True),
)


@settings(max_examples=400, deadline=None)
@given(target=st.sampled_from(["ntu", "pkummd1"]), seed=st.integers(0, 1), place=st.integers(0, 2000), token=NUMBERS)
def test_one_token_of_a_good_text_replaced_is_read_as_float_reads_it(
    target: str, seed: int, place: int, token: str
) -> None:
    good = seeds(target)
    lines = [line.split(b" ") for line in good[seed % len(good)].split(b"\n")]
    places = [(row, column) for row, line in enumerate(lines) for column in range(len(line))]
    row, column = places[place % len(places)]
    lines[row][column] = token.encode("latin-1")
    TARGETS[target](b"\n".join(b" ".join(line) for line in lines))


@settings(max_examples=300, deadline=None)
@given(dtype=st.integers(0, 2), at=st.integers(0, 10239), value=st.integers(0, 255))
def test_one_byte_of_a_shard_changed_loses_no_sample(dtype: int, at: int, value: int) -> None:
    data = bytearray(seeds("tar")[dtype])
    data[at] = value
    TARGETS["tar"](bytes(data))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 4))
def test_headers_with_changed_fields_and_right_checksums_lose_no_sample(seed: int, edits: int) -> None:
    rng = random.Random(seed)
    data = rng.choice(seeds("tar"))
    for _ in range(edits):
        data = tar(data, rng)
    TARGETS["tar"](data)


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
@pytest.mark.parametrize(("front", "offset"), [(False, 9), (True, -1)])
def test_a_read_beyond_guarded_memory_is_fatal(front: bool, offset: int) -> None:
    read = f"ctypes.string_at(guarded(b'123456789', {front}).ctypes.data + {{}}, 1)"
    lines = "import ctypes; from tests.fuzz.guarded import guarded; " + read
    root = Path(__file__).parents[2]
    for at, code in ((4, 0), (offset, -signal.SIGSEGV)):
        assert subprocess.run([sys.executable, "-c", lines.format(at)], cwd=root, check=False).returncode == code
