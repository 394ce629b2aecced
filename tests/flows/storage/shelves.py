"""Where things lie on the shelf of a test."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shelf:
    """Folders of a shelf."""

    root: Path
    data: Path
    store: Path
    run: Path
    benchmark: Path
