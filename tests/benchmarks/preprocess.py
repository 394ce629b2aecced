"""The whole `preprocess` command on 4,000 files, beside the obvious reference that prepares two protocols.

    OMP_NUM_THREADS=1 python tests/benchmarks/preprocess.py [--files 4000] [--raw ZIPS] [--rounds 3] [--dask 1 2]

The command is the one a user types (a new process, imports and all), on threads, into an empty folder; compiled
kernels are warm, as they are from the second call on. The reference (see parsing.py) reads and normalises some of the
same files frame by frame, pads them to 300 frames and saves them; the published scripts do that once a protocol, so
its time counts twice. It is measured on `--reference` files and scaled. Peak memory is that of the process tree.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from conversion_memory import resident_bytes
from parsing import reference

from pipelines.archives import RawFile, find_files
from pipelines.synthetic import ntu
from pipelines.synthetic.archive import write_entries

PROTOCOLS = 2
LENGTHS = (70, 140)  # 105 frames on average, as NTU RGB+D


def make_raw(folder: Path, files: int) -> Path:
    folder.mkdir()
    write_entries(ntu.entries(40, 60, files, 0, LENGTHS), folder, zipped=True)
    return folder


def reference_seconds(files: list[RawFile], folder: Path) -> float:
    """Seconds a file and protocol."""
    begin = time.perf_counter()
    padded = np.zeros((len(files), 3, 300, 25, 2), np.float32)
    for number, file in enumerate(files):
        frames = reference(file.read())[:300]
        padded[number, :, : len(frames)] = frames.transpose(3, 0, 2, 1)
    np.save(folder / "padded.npy", padded)
    return (time.perf_counter() - begin) / len(files)


def command(raw: Path, data: Path, *options: str) -> tuple[float, int]:
    """Seconds and peak bytes of one `skelstream preprocess`."""
    words = [
        sys.executable,
        "-m",
        "skelstream",
        "preprocess",
        "ntu",
        str(raw),
        "--out",
        str(data),
        "--plain",
        *options,
    ]
    begin, peak = time.perf_counter(), 0
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None:
        peak = max(peak, resident_bytes(psutil.Process(running.pid)))
        time.sleep(0.05)
    if running.returncode:
        raise SystemExit("the command failed")
    return time.perf_counter() - begin, peak


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[str]:
    """Address of a Dask scheduler with so many worker processes."""
    file = folder / f"scheduler-{workers}.json"
    dask, quiet = [sys.executable, "-m", "dask"], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    host = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    processes = [subprocess.Popen([*dask, "scheduler", *host, "--port", "0"], **quiet)]
    try:
        while not file.exists():
            time.sleep(0.1)
        scratch = ["--nthreads", "1", "--memory-limit", "0", "--local-directory", str(folder)]
        processes.append(subprocess.Popen([*dask, "worker", *host, "--nworkers", str(workers), *scratch], **quiet))
        import distributed

        with distributed.Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(workers)
            yield client.scheduler.address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--raw", type=Path, help="archives to take instead of new ones")
    parser.add_argument("--reference", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dask", type=int, nargs="*", default=[], help="also with so many Dask workers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = options.raw or make_raw(folder / "raw", options.files)
        files = find_files([raw], (".skeleton",))
        some = files[:: max(1, len(files) // options.reference)][: options.reference]
        command(raw, folder / "warm")
        ratios, peaks, times = [], [], []
        for turn in range(options.rounds):
            slow = PROTOCOLS * len(files) * reference_seconds(some, folder)
            fast, peak = command(raw, folder / f"data-{turn}")
            times.append(fast)
            ratios.append(slow / fast)
            peaks.append(peak)
        megabytes = sum(file.size for file in files) / 1e6
        print(f"{len(files)} files, {megabytes:.0f} MB of text")
        print(
            f"{'command':24} {statistics.median(times):8.1f} s   {len(files) / statistics.median(times):8.0f} files/s"
        )
        print(f"{'against the reference':24} {statistics.median(ratios):8.0f} x   target 50 x, stretch 90 x")
        print(f"{'peak memory':24} {max(peaks) / 1e6:8.0f} MB  target 600 MB")
        for workers in options.dask:
            with cluster(folder, workers) as address:
                command(raw, folder / f"warm-{workers}", "--scheduler", address)
                seconds, _ = command(raw, folder / f"dask-{workers}", "--scheduler", address)
            print(f"{f'{workers} Dask worker(s)':24} {seconds:8.1f} s   {len(files) / seconds:8.0f} files/s")


if __name__ == "__main__":
    main()
