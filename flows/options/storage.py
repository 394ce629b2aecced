"""Options of the commands that show what lies on the disk, and remove what nothing needs."""

from pathlib import Path
from typing import Annotated

from flows.options.argument import Argument
from flows.options.fields import LocalPath, Options


class _FolderOptions(Options):
    folders: Annotated[tuple[LocalPath, ...], Argument(metavar="FOLDER", positional=True)] = (Path(),)
    """Where to look, all below."""


class ListOptions(_FolderOptions):
    """Where to look, and how to tell it."""

    as_json: Annotated[bool, Argument("--json")] = False
    """Write JSON, for programs."""


class PruneOptions(_FolderOptions):
    """Where to look, and whether to ask."""

    yes: bool = False
    """Do not ask."""
