"""The command that keeps flows at hand: on a schedule, by the browser."""

import argparse
from typing import Any

from flows.cli.data import command, local_path
from flows.service.client import import_prefect


def add_commands(commands: Any) -> None:
    """Add `serve`."""
    sub = command(commands, "serve", _serve, "run flows on schedules and from the browser: a Prefect server and its UI")
    sub.add_argument("files", type=local_path, nargs="*", metavar="FILE", help="benchmarks to run on their schedules")
    sub.add_argument(
        "--port", type=int, default=4200, help="of the server, on the loopback interface; PREFECT_API_URL names another"
    )


def _serve(options: argparse.Namespace) -> None:
    import_prefect()

    from flows.benchmark.config import read_benchmark
    from flows.service.serve import Scheduled, serve

    found = [(path, read_benchmark(path)) for path in options.files]
    schedules = [Scheduled(config.name, path, config.schedule, config.timezone) for path, config in found]
    serve(schedules, port=options.port)
