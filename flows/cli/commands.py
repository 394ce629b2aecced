"""The commands by subject. Their modules import what a command needs when it runs, so that help is there at once."""

import argparse
import textwrap
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from flows.cli import data, exchange, scores, service, storage, training
from flows.cli.command import Command, line_width

ABOUT = "Raw skeleton archives -> shards -> self-supervised pre-training -> downstream scores."

_MODULES = {
    "data": data,
    "training": training,
    "scores": scores,
    "weights": exchange,
    "folders": storage,
    "services": service,
}
GROUPS = {
    title: [part for part in vars(module).values() if isinstance(part, Command)] for title, module in _MODULES.items()
}
COMMANDS = {command.name: command for commands in GROUPS.values() for command in commands}


def read_command(words: Sequence[str]) -> Callable[[], int | None]:
    """The call that the words of a command line ask for; words that ask for none end in a usage, with status 2."""
    parser = root_parser()
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near = get_close_matches(words[0], COMMANDS, n=2) or COMMANDS
        parser.error(f"argument COMMAND: invalid choice: {words[0]!r}; nearest: {', '.join(near)}")
    return COMMANDS[parser.parse_args(words[:1]).command].read(words[1:])


def root_parser() -> argparse.ArgumentParser:
    """The first word: a command, or a question about all of them."""
    parser = argparse.ArgumentParser(
        prog="skelstream",
        usage="%(prog)s COMMAND ...",
        description=f"{textwrap.fill(ABOUT, line_width())}\n\n{_list_commands()}",
        epilog=textwrap.fill("`skelstream COMMAND --help` shows the options of a command, and examples.", line_width()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="help", help="Show this help.")
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="Show the version.")
    return parser


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version  # not before it is asked for: it reads files

        print(f"skelstream {version('skelstream')}")
        parser.exit()


def _list_commands() -> str:
    indent = " " * (4 + max(map(len, COMMANDS)))
    lines = []
    for title, commands in GROUPS.items():
        lines.append(f"{title}:")
        for command in commands:
            start = f"  {command.name}".ljust(len(indent))
            lines += textwrap.wrap(command.about, line_width(), initial_indent=start, subsequent_indent=indent)
    return "\n".join(lines)


def complete_parser(path: Any) -> argparse.ArgumentParser:
    """All commands in one parser, for shells; `path` is what tells them that a value is a path."""
    parser = argparse.ArgumentParser(prog="skelstream", description=ABOUT)
    parser.add_argument("--version", action="store_true", help="Show the version.")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for command in COMMANDS.values():
        made = command.make_parser()
        paths = {".".join(typed.place) for typed in command.fields if typed.is_path}
        for action in made._actions:
            if action.dest in paths:
                vars(action)["complete"] = path
        subparsers.add_parser(command.name, help=command.about, parents=[made], add_help=False)
    return parser
