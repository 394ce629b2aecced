"""The commands that keep flows within reach of a browser, and commands within reach of a shell."""

from typing import TYPE_CHECKING

from flows.cli.command import command

if TYPE_CHECKING:  # the list of all commands needs none
    from flows.options import CompletionOptions, ServeOptions


@command("skelstream serve benchmark.yaml")
def serve(options: "ServeOptions") -> None:
    """Run flows on schedules and from the browser: a Prefect server and its UI."""
    from flows.service.client import import_prefect

    import_prefect()

    from flows.benchmark.config import read_benchmark
    from flows.service.serve import Scheduled
    from flows.service.serve import serve as run_server

    found = [(path, read_benchmark(path)) for path in options.files]
    schedules = [Scheduled(config.name, path, config.schedule, config.timezone) for path, config in found]
    run_server(schedules, port=options.port)


@command(
    "skelstream completion bash > ~/.local/share/bash-completion/completions/skelstream",
    "skelstream completion zsh > ~/.zfunc/_skelstream",
    "skelstream completion fish > ~/.config/fish/completions/skelstream.fish",
)
def completion(options: "CompletionOptions") -> None:
    """Print what a shell needs to complete commands, options and files."""
    import shtab

    from flows.cli.commands import complete_parser

    print(shtab.complete(complete_parser(shtab.FILE), options.shell))
