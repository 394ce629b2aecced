"""The reference pages say what the code does, and all of it."""

import re
from pathlib import Path

from flows.cli.reference import pages, write_pages
from flows.options.docstrings import read_docstrings
from flows.tasks.config import DetectionTaskConfig

DOCS = Path(__file__).resolve().parents[3] / "docs" / "reference"


def test_the_written_pages_are_those_that_the_code_makes(tmp_path: Path) -> None:
    write_pages(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in DOCS.iterdir()} == made, "run `make docs`"


def test_every_option_and_every_argument_is_explained() -> None:
    rows = [line for text in pages().values() for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 200
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []


def test_an_option_is_explained_where_its_base_explains_it() -> None:
    about, fields = read_docstrings(DetectionTaskConfig)
    assert about == "Detection in untrimmed videos."
    assert fields["tious"] == "overlaps from which on a detection counts."
    assert fields["test_stride"] == "of a test window."
