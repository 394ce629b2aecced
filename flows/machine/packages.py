"""Our own packages are found before others of the same names.

Their names are common ones: a research repository with a folder `models` on PYTHONPATH, or in the working directory of
`python -m`, would otherwise hide ours.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = ("flows", "models", "pipelines", "shards")
HOME = Path(__file__).resolve().parents[2]
"""The folder that holds them: the checkout, or site-packages."""


class OwnPackages(MetaPathFinder):
    """Finds our packages in `HOME`, and leaves all others alone."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(HOME)]) if name in PACKAGES else None


def prefer_own_packages() -> None:
    """Have this process import our packages from `HOME`, whatever lies on its path before them."""
    if not any(isinstance(finder, OwnPackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnPackages())


def own_module(name: str) -> list[str]:
    """The beginning of a command that runs one of our modules, given `own_environment`."""
    return [sys.executable, "-P", "-m", name]  # -P: not from the working directory


def own_environment() -> dict[str, str]:
    """Variables for a process that runs one of our modules: those of this process, with `HOME` first on PYTHONPATH."""
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": str(HOME) if not before else f"{HOME}{os.pathsep}{before}"}
