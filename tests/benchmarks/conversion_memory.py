"""Peak memory of a conversion against the number of files: it must not grow.

    python tests/benchmarks/conversion_memory.py [--files 500 2000] [--workers 0 2] [--source ntu]

Samples the resident memory of the conversion and all its worker processes together every 20 ms.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from pipelines.synthetic import synthesize

CONVERT = """
import sys
from pathlib import Path
from pipelines.conversion.convert import convert

if __name__ == "__main__":
    convert(sys.argv[1], [Path(sys.argv[2])], Path(sys.argv[3]), workers=int(sys.argv[4]))
"""


def resident_bytes(process: psutil.Process) -> int:
    """Of a process and all below it."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def peak_of_conversion(source: str, raw: Path, data: Path, workers: int) -> tuple[int, float]:
    """Peak bytes and seconds."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", CONVERT, source, str(raw), str(data), str(workers)]
    running = subprocess.Popen(command)
    process, peak = psutil.Process(running.pid), 0
    while running.poll() is None:
        peak = max(peak, resident_bytes(process))
        time.sleep(0.02)
    if running.returncode:
        raise SystemExit("the conversion failed")
    return peak, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--source", default="ntu", choices=("ntu", "pkummd1", "pkummd2"))
    options = parser.parse_args()
    print(f"{'files':>7} {'workers':>7} {'peak MB':>8} {'seconds':>8} {'files/s':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for files in options.files:
            raw = synthesize(
                options.source, Path(folder) / f"{files}", subjects=20, classes=20, samples=files, seed=0, zipped=True
            )
            for workers in options.workers:
                data = Path(folder) / f"{files}-{workers}"
                peak, seconds = peak_of_conversion(options.source, raw, data, workers)
                print(f"{files:7} {workers:7} {peak / 1e6:8.0f} {seconds:8.1f} {files / seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
