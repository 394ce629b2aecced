"""Coverage-guided fuzzing with atheris; Linux only, `pip install -e '.[fuzz]'`.

    python tests/fuzz/fuzz.py TARGET [libFuzzer options]      -runs=100000, -max_total_time=60, a corpus folder ...

Without a corpus folder it starts from the seeds and from the kept cases. A finding is written to the working folder
as `crash-<hash>`; fix it, then keep the file in `tests/fuzz/corpus/<target>/`, which every test run replays.
Kernels are compiled code without coverage: with NUMBA_DISABLE_JIT=1 they run, slowly, as Python and are covered too;
with NUMBA_BOUNDSCHECK=1 every read out of bounds is an error.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["pipelines", "shards"]):
    from tests.fuzz.seeds import seeds
    from tests.fuzz.targets import TARGETS


def main() -> None:
    target, options = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        if all(option.startswith("-") for option in options):
            kept = Path(__file__).parent / "corpus" / target
            cases = [*seeds(target), *(path.read_bytes() for path in sorted(kept.glob("*")))]
            for number, case in enumerate(cases):
                (Path(folder) / str(number)).write_bytes(case)
            options = [*options, folder]
        atheris.Setup([sys.argv[0], *options], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
