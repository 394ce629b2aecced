"""What is told of work that goes on: bars for terminals, lines for files, and no work that stops for either."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from shards import progress
from shards.progress import Progress, tell

ROOT = Path(__file__).resolve().parents[2]

WORK = """
from shards.progress import Progress, tell

with Progress("parse", 3, "file", shown=True) as bar:
    for number in range(3):
        bar.remark(f"of them {number} \\u00d7 odd")
        bar.advance()
        if number == 1:
            tell("skelstream: a remark")
assert [*Progress("listing", 2, "file", shown=True).over("ab")] == ["a", "b"]
print("done")
"""


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def on_a_terminal(columns: int, **environment: str) -> tuple[str, list[str]]:
    """What a terminal of that width gets of `WORK`, as it came and as what is visible of its lines in the end."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | environment
    process = subprocess.Popen(
        [sys.executable, "-c", WORK], stderr=follower, stdout=follower, cwd=ROOT, env=environment
    )
    os.close(follower)
    data = b""
    with suppress(OSError):  # nobody has it open any more
        while read := os.read(leader, 1 << 16):
            data += read
    os.close(leader)
    assert process.wait() == 0, data
    text = data.decode()
    return text, [line.rstrip("\r").split("\r")[-1] for line in text.split("\n")]


def test_in_a_pipe_there_are_plain_lines_at_the_start_and_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("parse", 1000, "file", shown=True) as bar:
        for _ in range(1000):
            clock.now += 0.01
            bar.advance()
    assert capsys.readouterr().err.splitlines() == [
        "parse:   0% 0/1000 [00:00<?, ?file/s]",
        "parse: 100% 1000/1000 [00:10<00:00, 100.00file/s]",
    ]


def test_long_work_tells_in_a_pipe_every_half_minute_how_far_it_is(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in Progress("epoch 1 of 2", 100, "step", shown=True).over(range(100)):
        clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert [re.search(r"(\d+)/100 ", line)[1] for line in lines] == ["0", "30", "60", "90", "100"]  # type: ignore[index]
    assert lines[1] == "epoch 1 of 2:  30% 30/100 [00:30<01:10,  1.00step/s]"


def test_a_passing_bar_has_lines_in_a_pipe_only_when_it_takes_long(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for seconds in (1, 20):
        for _ in Progress("features", 3, "batch", shown=True, passing=True).over(range(3)):
            clock.now += seconds
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" [")[0] for line in lines] == ["features:  67% 2/3", "features: 100% 3/3"]


def test_a_bar_that_is_not_asked_for_shows_nothing_and_loads_nothing() -> None:
    code = (
        "import sys; from shards.progress import Progress, tell\n"
        "assert [*Progress('x', None, 'file', shown=False).over(range(3))] == [0, 1, 2]\n"
        "tell('skelstream: x'); assert 'tqdm' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "skelstream: x\n")


def test_a_total_that_nobody_knows_and_what_was_done_before_are_counted(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("writing ntu", None, "file", shown=True) as bar:
        clock.now += 2
        bar.advance(10)
    with Progress("steps", 100, "step", shown=True, done=50) as bar:
        clock.now += 10
        bar.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "writing ntu: 10file [00:02,  5.00file/s]"
    assert lines[3] == "steps:  60% 60/100 [00:10<00:40,  1.00step/s]"


def test_an_error_in_the_work_shows_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        for number in Progress("parse", 5, "file", shown=True).over(range(5)):
            if number == 2:
                raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        fail()
    assert "parse:  40% 2/5" in capsys.readouterr().err.splitlines()[-1]


def test_on_a_terminal_a_bar_is_drawn_over_itself_and_remarks_stand_above_it() -> None:
    text, lines = on_a_terminal(100, TERM="xterm")
    assert "\r" in text.replace("\r\n", "")
    assert "█" in text
    assert lines[0] == "skelstream: a remark"
    assert "3/3" in lines[1]
    assert "2/2" in lines[2]


@pytest.mark.parametrize(
    ("columns", "environment"),
    [(20, {}), (100, {"COLUMNS": "20"}), (100, {"TERM": "dumb"})],
    ids=["narrow", "said to be narrow", "dumb"],
)
def test_a_terminal_on_which_no_bar_can_be_drawn_gets_lines(columns: int, environment: dict[str, str]) -> None:
    text, lines = on_a_terminal(columns, **environment)
    assert "\r" not in text.replace("\r\n", "")
    assert [line.split(" [")[0] for line in lines] == [
        "parse:   0% 0/3",
        "skelstream: a remark",
        "parse: 100% 3/3",
        "listing:   0% 0/2",
        "listing: 100% 2/2",
        "done",
        "",
    ]


@pytest.mark.parametrize("columns", ["x", "", "0"])
def test_a_terminal_without_a_size_gets_bars_of_80_columns(columns: str) -> None:
    text, lines = on_a_terminal(0, COLUMNS=columns, TERM="xterm")
    assert "3/3" in lines[1]
    assert max(len(line) for line in re.split(r"[\r\n]", text)) <= 80


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}])
def test_a_terminal_of_ascii_gets_bars_of_ascii(environment: dict[str, str]) -> None:
    text, lines = on_a_terminal(100, TERM="xterm", **environment)
    assert text.isascii() or "PYTHONIOENCODING" not in environment
    assert "3/3" in lines[1]


@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&-", "2>&1 | true"])
def test_no_work_stops_because_nobody_takes_its_lines(stream: str) -> None:
    command = f'"$0" -c "$1" {stream}'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable, WORK.replace('print("done")', "")],
        cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stream_that_is_closed_or_cannot_encode_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None, io.TextIOWrapper(io.BytesIO(), "ascii")):
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress("×", 1, "file", shown=True) as bar:
            bar.advance()
        tell("×")


def test_of_several_ranks_the_first_alone_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in "0", "1":
        monkeypatch.setenv("RANK", rank)
        tell(f"by {rank}")
    assert capsys.readouterr().err == "by 0\n"
