"""Coverage-guided fuzzing with atheris; Linux only, `pip install -e '.[fuzz]'`.

    python tests/fuzz/fuzz.py TARGET [libFuzzer options]      -runs=100000, -max_total_time=60, a corpus folder ...

Without a corpus folder it starts from the seeds and from the kept cases. Half of the mutations know the format
(`mutators.py`). An input that crashes, takes longer than ten seconds or more than 2 GB is a finding: it is written to
the working folder as `crash-`, `timeout-` or `oom-<hash>`; fix it, then keep the file in `corpus/<target>/`, which
every test run replays.

Kernels are compiled code and have no coverage. Their targets run the plain parsers on the same input, which have, and
give the kernels memory that ends where the text ends. With NUMBA_BOUNDSCHECK=1 (and a NUMBA_CACHE_DIR of its own, for
compiled code is kept) their arrays are checked too.
"""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_DEFAULTS = {"-timeout": "10", "-rss_limit_mb": "2048", "-max_len": "16384", "-len_control": "0", "-verbosity": "1"}
_INSIDE = "SKELSTREAM_FUZZ_FOLDER"
# The standard library's readers and numpy's know their formats' branches better than ours do.
_INSTRUMENTED = ["pipelines", "shards", "tarfile", "zipfile", "json", "webdataset", "numpy.lib._format_impl"]
# What Numba compiles must stay as it is.
_COMPILED = ["pipelines.parsers.scan", "pipelines.preprocessing", "pipelines.compiled"]


def main() -> int:
    """Fuzz in a child process, so that its folder goes whatever becomes of it."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="skelstream-fuzz-", dir=memory) as folder:
        environment = {**os.environ, _INSIDE: folder, "TMPDIR": folder}
        return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


def fuzz(target: str, options: list[str], folder: Path) -> None:
    """Never returns."""
    import atheris

    sys.path.insert(0, str(_HERE.parents[1]))
    with atheris.instrument_imports(include=_INSTRUMENTED, exclude=_COMPILED):
        from tests.fuzz.mutators import mutate
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS

    valid = seeds(target)

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.2:  # the fuzzer prefers its shortest inputs, which get nowhere near the end of a text
            data = rng.choice(valid)
        return atheris.Mutate(data, max_size) if rng.random() < 0.5 else mutate(target, data, rng)[:max_size]

    if all(option.startswith("-") for option in options):
        cases = folder / "cases"
        cases.mkdir()
        kept = [path.read_bytes() for path in sorted((_HERE / "corpus" / target).glob("*"))]
        for number, case in enumerate([*valid, *kept]):
            (cases / str(number)).write_bytes(case)
        options = [*options, str(cases)]
    given = {option.partition("=")[0] for option in options}
    defaults = [f"{name}={value}" for name, value in _DEFAULTS.items() if name not in given]
    atheris.Setup([sys.argv[0], *defaults, *options], TARGETS[target], custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    if _INSIDE in os.environ:
        fuzz(sys.argv[1], sys.argv[2:], Path(os.environ[_INSIDE]))
    sys.exit(main())
