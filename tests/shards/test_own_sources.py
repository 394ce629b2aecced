"""Own sources: found where installed, refused by name where they cannot be used, harmless to the built-in ones."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import count, product
from pathlib import Path

import numpy as np
import pytest

from shards.catalog import DATASETS, SOURCES, dataset, info_from_name, source
from shards.cells import cell_name, memberships
from shards.errors import ConfigError, RawInputError
from shards.protocols import split
from shards.schema import RawSequence, SampleInfo
from shards.sources.own import own_source

MODULE = """
from shards.schema import RawSequence, SampleInfo
from shards.sources import DataSet, OwnSource, Source, by

RULE = by("subject", train=(1,), test=(2,))

class Lines:
    suffixes = (".csv",)
    def parse(self, data, name, origin):
        return {result}

def info(name):
    return {info}

OWN = OwnSource(
    source=Source(name={name!r}, title="Mine", num_classes=3, info=info, {more}
                  holds={holds}, steps={steps}),
    parser={parser},
)
"""
GOOD = {
    "name": "mine",
    "info": "SampleInfo(name, len(name) - 1, subject=int(name[0]))",
    "result": "RawSequence(name, None, None, None)",
    "more": "",
    "holds": '(DataSet("mine", "mine", 3, {"xsub": RULE}),)',
    "steps": '({"name": "parse", "version": 1},)',
    "parser": "Lines()",
}
_numbers = count()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a package with one entry point; gives the folder it lies in."""

    def put(text: str | None = None, entry: str = "mine", package: str = "my-package", **parts: str) -> Path:
        folder, module = tmp_path / f"site{next(_numbers)}", f"mine_{next(_numbers)}"
        info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(MODULE.format(**GOOD | parts) if text is None else text)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[skelstream.sources]\n{entry} = {module}:OWN\n")
        monkeypatch.syspath_prepend(folder)
        return folder

    return put


def refused(name: str = "mine") -> str:
    with pytest.raises(ConfigError) as error:
        source(name)
    return str(error.value)


def test_an_installed_source_is_known_by_its_name(install: Callable[..., Path]) -> None:
    assert "mine" not in SOURCES
    install()
    assert list(SOURCES) == ["ntu", "pkummd1", "pkummd2", "nwucla", "mine"]
    assert list(DATASETS)[-1] == "mine"
    assert (source("mine").title, dataset("mine").source, dataset("mine").counts) == ("Mine", "mine", {})
    assert info_from_name("mine", "1a") == SampleInfo("1a", 1, subject=1)
    assert split("mine", "xsub", info_from_name("mine", "2a")) == "test"


def test_unknown_names_are_answered_with_own_ones_too(install: Callable[..., Path]) -> None:
    install()
    assert "expected one of ntu, pkummd1, pkummd2, nwucla, mine" in refused("yours")
    with pytest.raises(ConfigError, match=r"unknown data set 'mine-b', expected one of .*, mine$"):
        dataset("mine-b")


def test_the_code_of_a_package_is_imported_when_its_name_is_asked_for(install: Callable[..., Path]) -> None:
    install("raise SystemError('imported')")
    assert list(SOURCES)[-1] == "mine"
    assert source("ntu").name == dataset("ntu60").source == "ntu"
    assert "SystemError (imported)" in refused()


def test_a_broken_package_is_named_and_leaves_the_others_alone(install: Callable[..., Path]) -> None:
    install("import not_there_at_all")
    install(entry="sound", package="other", name="sound", holds='(DataSet("sound", "sound", 3, {"xsub": RULE}),)')
    assert source("sound").num_classes == 3
    assert [name for name in DATASETS if name not in ("mine", "sound")] == list(DATASETS)[:-1]
    message = refused()
    assert re.match(r"entry point mine = mine_\d+:OWN of package my-package: found ModuleNotFoundError", message)
    with pytest.raises(ConfigError, match="entry point mine"):
        dataset("mine")


def test_no_package_takes_the_name_of_a_built_in_source(install: Callable[..., Path]) -> None:
    install(entry="ntu", name="ntu", holds='(DataSet("ntu-small", "ntu", 3, {"xsub": RULE}),)')
    assert source("ntu").title == "NTU RGB+D 60 / 120"
    assert dataset("ntu60").num_classes == 60
    assert list(SOURCES) == ["ntu", "pkummd1", "pkummd2", "nwucla"]
    assert "ntu-small" not in DATASETS
    assert list(DATASETS) == ["ntu60", "ntu120", "pkummd1", "pkummd2", "nwucla"]


def test_two_packages_of_one_name_are_both_named(install: Callable[..., Path]) -> None:
    install()
    install(package="another")
    message = refused()
    assert "package my-package" in message
    assert "package another" in message


def test_what_lies_in_the_current_folder_is_not_installed(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install()
    monkeypatch.chdir(folder)
    assert own_source("mine") is None
    sys.path.insert(0, "")
    assert "unknown source" in refused()
    monkeypatch.chdir(folder.parent)
    assert own_source("mine") is not None


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"name": "other"}, "found the source 'other', expected 'mine', the name of the entry point"),
        ({"more": "untrimmed=True,"}, "found untrimmed=True, expected one file an action"),
        ({"more": "nested=True,"}, "found nested or known_faults"),
        ({"steps": "()"}, r"found steps \(\)"),
        ({"steps": "({'version': 1},)"}, "found steps"),
        ({"steps": "({'name': 'parse', 'by': {1}},)"}, "found steps"),
        ({"holds": "()"}, "found the data sets"),
        ({"holds": '2 * (DataSet("mine", "mine", 3, {"xsub": RULE}),)'}, "of different names"),
        ({"holds": '(DataSet("yours", "mine", 3, {"xsub": RULE}),)'}, "found the data set 'yours'"),
        ({"holds": '(DataSet("mine_b", "mine", 3, {"xsub": RULE}),)'}, "found the data set 'mine_b'"),
        ({"holds": '(DataSet("mine", "ntu", 3, {"xsub": RULE}),)'}, "of source 'ntu'"),
        ({"holds": '(DataSet("mine", "mine", 4, {"xsub": RULE}),)'}, "found 4 classes in mine"),
        ({"holds": '(DataSet("mine", "mine", 3, {}),)'}, "found the protocols"),
        ({"holds": '(DataSet("mine", "mine", 3, {"a/b": RULE}),)'}, "found the protocols"),
        ({"holds": '(DataSet("mine", "mine", 3, {"a": RULE}, {"b": (1, 2)}),)'}, "found counts of"),
        ({"parser": "None"}, "found the parser None"),
        ({"parser": "type('P', (Lines,), {'suffixes': '.csv'})()"}, "found the suffixes '.csv'"),
        ({"text": "OWN = 3"}, "found a int, expected an OwnSource"),
        ({"text": "import sys; sys.nothing"}, "found AttributeError"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_with_what_was_expected(
    install: Callable[..., Path], parts: dict[str, str], found: str
) -> None:
    install(**parts)
    assert re.search(found, refused())
    assert refused().startswith("entry point mine = ")


def test_an_entry_point_must_bear_a_plain_name(install: Callable[..., Path]) -> None:
    install(entry="Mine", name="Mine")
    assert "lower-case letters and digits" in refused("Mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.b", "letters, digits"),
        ("../1", "letters, digits"),
        ("1" * 81, "letters, digits"),
        ("x", "name: found ValueError"),
        ("1aaa", "label 3, expected 0 to 2"),
    ],
)
def test_a_name_that_no_sample_can_have_is_refused(install: Callable[..., Path], name: str, message: str) -> None:
    install()
    with pytest.raises(RawInputError, match=message) as error:
        info_from_name("mine", name)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "info",
    ["SampleInfo(name + 'x', 0)", "SampleInfo(name, 0, subject=-2)", "SampleInfo(name, 0, camera=1.5)"],
)
def test_a_name_read_to_something_else_is_a_fault_of_the_code(install: Callable[..., Path], info: str) -> None:
    install(info=info)
    with pytest.raises(ConfigError, match="info of source mine: found SampleInfo"):
        info_from_name("mine", "1")


def test_what_a_name_does_not_tell_stays_unknown(install: Callable[..., Path]) -> None:
    install(info="SampleInfo(name, 0)", holds='(DataSet("mine", "mine", 3, {"all": lambda info: "train"}),)')
    info = info_from_name("mine", "1")
    assert (info.subject, info.camera, info.setup, info.replication) == (-1, -1, -1, -1)
    assert memberships("mine", info) == {"mine/all": "train"}


@pytest.mark.parametrize(("label", "message"), [("-1", "label -1"), ("True", "label True"), ("None", "label None")])
def test_a_sample_without_a_label_is_refused(install: Callable[..., Path], label: str, message: str) -> None:
    install(info=f"SampleInfo(name, {label})")
    with pytest.raises(RawInputError, match=message):
        info_from_name("mine", "1")


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ("{}['frames']", RawInputError, r"^f\.csv: found KeyError \('frames'\)"),
        ("(1).frames", RawInputError, r"^f\.csv: found AttributeError"),
        ("None", ConfigError, "found NoneType of key None"),
        ("RawSequence('y', FRAMES, ONES, IDS)", ConfigError, "key 'y', expected a RawSequence of key '1'"),
        ("RawSequence(name, FRAMES[:, 0], ONES, IDS)", ConfigError, r"\(4, 25, 3\), expected float64 \(T, S, 25, 3\)"),
        ("RawSequence(name, FRAMES[:, :, :20], ONES, IDS)", ConfigError, r"frames of float64 \(4, 2, 20, 3\)"),
        ("RawSequence(name, FRAMES.astype('f4'), ONES, IDS)", ConfigError, "frames of float32"),
        ("RawSequence(name, FRAMES, ONES[1:], IDS)", ConfigError, r"num_bodies of int64 \(3,\)"),
        ("RawSequence(name, FRAMES, ONES * 3, IDS)", ConfigError, "num_bodies 3 to 3, expected 0 to 2"),
        ("RawSequence(name, FRAMES, ONES, IDS * 1.0)", ConfigError, "body_ids of float64"),
        (
            "RawSequence(name, FRAMES / 0, ONES, IDS)",
            RawInputError,
            r"^f\.csv: frame 1: found nan in body 1",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_parsers_result_is_checked(
    install: Callable[..., Path], result: str, error: type[Exception], message: str
) -> None:
    text = MODULE.format(**GOOD | {"result": result})
    arrays = (
        "import numpy as np\nFRAMES = np.zeros((4, 2, 25, 3))\nONES = np.ones(4, int)\nIDS = np.zeros((4, 2), int)\n"
    )
    install(arrays + text)
    own = own_source("mine")
    assert own is not None
    with pytest.raises(error, match=message):
        own.parser.parse(b"", "1", "f.csv")


def test_a_good_result_passes_as_it_is(install: Callable[..., Path]) -> None:
    install("import numpy as np\n" + MODULE.format(**GOOD | {"result": "RawSequence(name, *data)"}))
    own = own_source("mine")
    assert own is not None
    arrays = (np.ones((4, 2, 25, 3)), np.ones(4, np.int64), np.zeros((4, 2), np.int64))
    raw = own.parser.parse(arrays, "1", "f.csv")  # type: ignore[arg-type]  # the parser of this test takes arrays
    assert isinstance(raw, RawSequence)
    assert all(a is b for a, b in zip((raw.frames, raw.num_bodies, raw.body_ids), arrays, strict=True))


def test_a_fault_of_the_parser_that_no_content_explains_keeps_its_traceback(install: Callable[..., Path]) -> None:
    install(result="open('/not/there')")
    own = own_source("mine")
    assert own is not None
    with pytest.raises(FileNotFoundError):
        own.parser.parse(b"", "1", "f.csv")


def test_cells_of_several_own_data_sets_are_told_apart(install: Callable[..., Path]) -> None:
    rules = '{"p": lambda i: SIDES[i.subject], "q": lambda i: SIDES[i.camera]}'
    sets = f'(DataSet("mine", "mine", 3, {rules}), DataSet("mine-b", "mine", 3, {{"p": lambda i: SIDES[i.setup]}}))'
    text = MODULE.format(**GOOD | {"holds": sets})
    install("SIDES = (None, 'train', 'test')\n" + text)
    infos = [SampleInfo("1", 0, *numbers) for numbers in product(range(3), repeat=3) if any(numbers)]
    names = [cell_name("mine", info) for info in infos]
    assert len(set(names)) == len(infos) == len({str(memberships("mine", info)) for info in infos}) == 26
    assert "mine-p-train_mine-q-test_mine-b-p-train" in names
    with pytest.raises(RawInputError, match="1: name: found a sample that no protocol holds"):
        cell_name("mine", SampleInfo("1", 0, 0, 0, 0))


def test_a_rule_must_give_a_side(install: Callable[..., Path]) -> None:
    install(holds='(DataSet("mine", "mine", 2, {"x": lambda i: i.subject > 1, "y": lambda i: "train"}),)')
    with pytest.raises(ConfigError, match="rule mine/x: found True, expected 'train', 'test' or None"):
        split("mine", "x", SampleInfo("1", 0, subject=2))
    with pytest.raises(RawInputError, match="label 2 in mine/y, expected one below 2"):
        split("mine", "y", SampleInfo("1", 2))


def test_asking_for_a_built_in_name_looks_at_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("shards.sources.own._entry_points", scan)
    assert "ntu" in SOURCES
    assert source("pkummd1").untrimmed
    assert dataset("ntu120").source == "ntu"
    with pytest.raises(AssertionError):
        source("mine")


def test_a_process_of_its_own_finds_what_pythonpath_holds_but_not_what_its_folder_holds(
    install: Callable[..., Path], tmp_path: Path
) -> None:
    folder = install()
    code = "from shards.catalog import SOURCES; print('mine' in SOURCES)"
    said = []
    for cwd in (tmp_path, folder):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(Path(__file__).parents[2])))}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=True
        )
        said.append(done.stdout.strip())
    assert said == ["True", "False"]
