"""The command `skelstream`, also as `python -m skelstream`."""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Run one command of `flows.cli.main`, from the packages that lie beside this file.

    A folder `flows` of somebody else on PYTHONPATH, or in the working directory, would be found first otherwise; once
    our own is imported, it looks after its siblings (`flows.machine.packages`).
    """
    spec = PathFinder.find_spec("flows", [str(Path(__file__).resolve().parent)])
    assert spec is not None, "the packages lie beside this file"
    assert spec.loader is not None, "flows is a package with an __init__"
    flows = module_from_spec(spec)
    sys.modules["flows"] = flows
    spec.loader.exec_module(flows)

    from flows.cli.main import main as run_command
    from flows.machine import rank

    rank.leave(run_command())


if __name__ == "__main__":
    main()
