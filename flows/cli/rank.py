"""What a rank does that `pretrain --gpus` started: python -m flows.cli.rank OPTIONS [--progress]."""

import sys

from flows.cli.main import orderly_termination, tell_errors
from flows.machine import rank


def main(request: str, *, progress: bool) -> int:
    """Train as the options say, which are the JSON of `PretrainOptions`; the status is that of `main.main`."""

    def run() -> int:
        from flows.options import PretrainOptions
        from flows.pretrain import pretrain

        with orderly_termination():
            pretrain(PretrainOptions.model_validate_json(request), progress=progress)
        return 0

    return tell_errors(run)


if __name__ == "__main__":
    rank.leave(main(sys.argv[1], progress=sys.argv[2:] == ["--progress"]))
