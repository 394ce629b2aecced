"""What people really have in the place of raw text, told in every format by what it is and what to do."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.archives import damage, find_files
from pipelines.conversion.convert import convert
from pipelines.parsers import ntu, nwucla, pkummd
from shards.errors import RawInputError

ORIGIN = "place/file"
NWUCLA_NAME = "a01_s01_e00_v01"

JOINT = "0.25 -1.5 3.0 250.5 200.25 960.5 540.25 0 0 0 0 2"
NTU = "\n".join(["1", "1", "7 0 0 0 0 0 0 0.01 -0.02 2", "25", *[JOINT] * 25, ""])
ROW = " ".join(["0.25"] * 75 + ["0"] * 75)
LABELS = "1,3,20,2\n9,22,38,1\n"
NWUCLA = json.dumps({"file_name": NWUCLA_NAME, "skeletons": [[[0.25, -1.5, 3.0]] * 20] * 2, "label": 1}, indent=1)

GOOD = {"ntu": NTU, "pkummd": f"{ROW}\n {ROW}\n", "labels": LABELS, "nwucla": NWUCLA}
PARSE: dict[str, Callable[[bytes], object]] = {
    "ntu": lambda data: ntu.parse(data, "name", ORIGIN).frames.tolist(),
    "pkummd": lambda data: pkummd.parse(data, "name", ORIGIN).frames.tolist(),
    "labels": lambda data: pkummd.parse_labels(data, ORIGIN, 100, 51),
    "nwucla": lambda data: nwucla.parse(data, NWUCLA_NAME, ORIGIN).frames.tolist(),
}


def refused(kind: str, data: bytes) -> str:
    """The error of a file, which must be one short printable line that names the place."""
    with pytest.raises(RawInputError) as caught:
        PARSE[kind](data)
    message = str(caught.value)
    assert message.startswith(f"{ORIGIN}: line ")
    assert message.isprintable()
    assert message.isascii()
    assert len(message) < 500
    return message


def packed(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def zipped(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("S001C001P001R001A001.skeleton", NTU)


def tarred(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("S001C001P001R001A001.skeleton"))


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 123456\n".encode()
S3_ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
XHTML = b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">\n<html/>'
INSTEAD = {
    "a Git LFS pointer": (POINTER, "a Git LFS pointer, 'version https", "run git lfs pull"),
    "a pointer with CRLF": (POINTER.replace(b"\n", b"\r\n"), "a Git LFS pointer", "run git lfs pull"),
    "a git-annex pointer": (b"/annex/objects/SHA256E-s37--0a1b.skeleton\n", "a git-annex pointer", "run git annex get"),
    "a web page": (
        b"<!DOCTYPE html>\n<body>Sign in</body>",
        "a web page, '<!DOCTYPE html>'",
        "download the file again",
    ),
    "a page behind blanks": (b"\r\n\r\n  <HTML><head>", "a web page", "download the file again"),
    "a page with a mark": (b"\xef\xbb\xbf<html lang=en>", "a web page", "download the file again"),
    "a page of a comment": (b"<!-- saved -->\n<html>", "a web page", "download the file again"),
    "XHTML": (XHTML, "a web page", "download the file again"),
    "an error of a store": (S3_ERROR, "XML (perhaps a server's answer), '<?xml", "download the file again"),
    "an error without head": (b"<Error><Code>NoSuchKey</Code></Error>", "XML", "download the file again"),
    "NULs": (bytes(4096), "nothing but NUL bytes", "its content was lost, get the file again"),
    "a zip": (packed(zipped), "a zip, 'PK", "let its name end in .zip"),
    "an empty zip": (packed(lambda file: zipfile.ZipFile(file, "w").close()), "a zip", "unpack it"),
    "gzip": (gzip.compress(NTU.encode()), "gzip data", "unpack it"),
    "tar": (packed(tarred), "a tar archive", "unpack it"),
    "npy": (packed(lambda file: np.save(file, np.zeros(3))), "a NumPy array", "not arrays"),
    "npz": (packed(lambda file: np.savez(file, a=np.zeros(3))), "a zip", "unpack it"),
    "mat": (b"MATLAB 5.0 MAT-file, Platform: PCWIN64" + bytes(100), "a MATLAB file", "not arrays"),
    "pickle": (pickle.dumps([1.0]), "a Python pickle", "not arrays"),
}


@pytest.mark.parametrize("case", INSTEAD)
@pytest.mark.parametrize("kind", GOOD)
def test_what_lies_in_the_place_of_a_file_is_told_as_what_it_is(kind: str, case: str) -> None:
    data, found, remedy = INSTEAD[case]
    message = refused(kind, data)
    what, _, expected = message.partition(", expected ")
    assert f": found {found}" in what
    assert remedy in expected.partition(": ")[2]


WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("kind", GOOD)
def test_text_of_wide_characters_is_told_with_or_without_a_mark(kind: str, encoding: str, marked: bool) -> None:
    message = refused(kind, (marked * "\ufeff" + GOOD[kind]).encode(encoding))
    name = encoding[:6].upper() + ("" if marked else encoding[-2:].upper())
    assert f": found {name} text, '" in message
    assert message.endswith(f": convert it, as by iconv -f {name} -t UTF-8")


@pytest.mark.parametrize("kind", GOOD)
def test_a_byte_order_mark_of_utf_8_is_read_past(kind: str) -> None:
    good = GOOD[kind].encode()
    for text in (good, good.replace(b"\n", b"\r\n")):
        assert PARSE[kind](b"\xef\xbb\xbf" + text) == PARSE[kind](good)


@pytest.mark.parametrize("kind", ["ntu", "pkummd", "nwucla"])
def test_a_byte_order_mark_inside_a_text_is_told(kind: str) -> None:
    good = GOOD[kind].encode()
    for data in (b"\xef\xbb\xbf\xef\xbb\xbf" + good, good.replace(b"0.25", b"\xef\xbb\xbf0.25")):
        assert "found a byte order mark inside the text in '" in refused(kind, data)


def test_a_text_with_a_mark_takes_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ntu, pkummd):
        monkeypatch.setattr(module, "parse_any", None)
    for kind in ("ntu", "pkummd"):
        PARSE[kind](b"\xef\xbb\xbf" + GOOD[kind].encode())


def test_good_files_are_not_asked_for_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("identify", "describe", "shown"):
        monkeypatch.setattr(damage, name, None)
    for kind, text in GOOD.items():
        PARSE[kind](text.replace("0.25", "0.25  ").encode())


@pytest.mark.parametrize("kind", ["ntu", "pkummd", "nwucla"])
@pytest.mark.parametrize("size", [2, 512, 4096])
def test_a_lost_block_is_told_with_its_line_and_what_stands_before_it(kind: str, size: int) -> None:
    good = GOOD[kind].encode()
    at = good.index(b"0.25") + 2
    message = refused(kind, good[:at] + bytes(size) + good[at + size :])
    assert f"line {good.count(bytes([10]), 0, at) + 1}" in message
    assert f"found {size} NUL bytes in '" in message
    assert r"0.\x00" in message
    assert message.endswith("a part of its content was lost, get the file again")


VISUAL_C = ["-1.#IND", "1.#QNAN", "1.#INF", "-1.#INF", "1.#SNAN", "-1.#IND00", "1.#INF000", "1.#J", "1.$", "-nan(ind)"]


@pytest.mark.parametrize("word", VISUAL_C)
@pytest.mark.parametrize("kind", ["ntu", "pkummd", "nwucla"])
def test_the_nan_of_visual_c_is_told_in_any_field(kind: str, word: str) -> None:
    places = ("0.25", "200.25") if kind == "ntu" else ("0.25",)
    for place in places:
        message = refused(kind, GOOD[kind].replace(place, word, 1).encode())
        assert f"found '{word}', as Visual C++ writes NaN and infinity, in '" in message
        assert "write NaN where it is no coordinate" in message


def test_a_word_of_visual_c_elsewhere_in_the_line_is_not_blamed() -> None:
    message = refused("ntu", NTU.replace(JOINT, JOINT.replace("0.25", "x", 1).replace("540.25", "-1.#IND"), 1).encode())
    assert "line 5: found the byte b'x' in 'x -1.5 " in message


COMMAS = {
    "decimal commas": (lambda text: text.replace(".", ","), "decimal commas in '", "write points instead of commas"),
    "decimal commas and tabs": (
        lambda text: text.replace(".", ",").replace(" ", "\t"),
        "decimal commas in '",
        "write points instead of commas",
    ),
    "an exponent": (lambda text: text.replace("0.25", "2,5E-01"), "decimal commas in '", "write points"),
    "commas": (lambda text: text.replace(" ", ","), "fields divided by commas in '", "write blanks instead of commas"),
    "commas and blanks": (lambda text: text.replace(" ", ", "), "fields divided by commas in '", "write blanks"),
    "padding": (lambda text: text.replace("\n", ",,\n"), "fields divided by commas in '", "write blanks"),
    "semicolons": (lambda text: text.replace(" ", ";"), "fields divided by semicolons in '", "write blanks"),
    "bars": (lambda text: text.replace(" ", "|"), "fields divided by bars in '", "write blanks"),
}


@pytest.mark.parametrize("case", COMMAS)
@pytest.mark.parametrize("kind", ["ntu", "pkummd"])
def test_commas_are_told_as_what_they_do(kind: str, case: str) -> None:
    change, found, remedy = COMMAS[case]
    message = refused(kind, change(GOOD[kind]).encode())
    line = 3 if kind == "ntu" and case not in ("an exponent", "padding") else {"ntu": 5, "pkummd": 1}[kind]
    assert f"line {1 if case == 'padding' else line}: found {found}" in message
    assert remedy in message


def test_a_byte_of_no_number_is_shown_with_its_line() -> None:
    data = NTU.replace(JOINT, JOINT.replace("540.25", "54O.25"), 1).encode()
    assert f"line 5: found the byte b'O' in '{JOINT.replace('540', '54O')}', expected" in refused("ntu", data)
    long = ROW.replace("0.25", "0.2_5", 100).replace("0.2_5", "0.25", 60).encode()
    shown = refused("pkummd", long).partition("the byte b'_' in ")[2].partition(", expected")[0]
    assert shown.startswith("'...")
    assert shown.endswith("...'")
    assert "0.2_5" in shown


@given(st.text(alphabet="0123456789+-.eE \t\r\nnaifty", max_size=300))
def test_plain_numbers_are_never_taken_for_something_else(text: str) -> None:
    assert damage.identify(text.encode()) is None


@given(st.binary(max_size=300), st.integers(0, 300))
def test_whatever_is_shown_is_one_short_printable_line(data: bytes, at: int) -> None:
    seen = damage.describe(data, min(at, len(data)), "a byte")
    for text in (seen.found, damage.shown(data, at)):
        assert text.isprintable()
        assert len(text) < 400


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (POINTER, r"no readable zip \(a Git LFS pointer\), expected .*: run git lfs pull"),
        (
            b"<!DOCTYPE html>\n<body>Sign in</body>" + bytes(5000),
            r"no readable zip \(a web page\), expected .*download",
        ),
        (gzip.compress(NTU.encode()), r"no readable zip \(gzip data\), expected .*unpack it"),
        (packed(zipped)[:-30], r"no readable zip \(BadZipFile"),
        (b"no zip", r"no readable zip \(BadZipFile"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_what_lies_in_the_place_of_a_zip_is_told_too(tmp_path: Path, data: bytes, found: str, inside: bool) -> None:
    path = tmp_path / "skeletons.zip"
    path.write_bytes(data)
    if inside:
        path = tmp_path / "bundle.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("skeletons.zip", data)
    with pytest.raises(RawInputError, match=rf"skeletons\.zip: found {found}"):
        find_files([path], (".skeleton",))


def test_a_damaged_file_of_a_conversion_is_told_and_can_be_dropped(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for camera in (1, 2):
        (raw / f"S001C00{camera}P001R001A001.skeleton").write_text(
            "2\n"
            + 2 * "\n".join(["1", "7 0 0 0 0 0 0 0 0 2", "25", *(f"{j} {j * j} 3{' 0' * 9}" for j in range(25)), ""])
        )
    bad = raw / "S001C003P001R001A001.skeleton"
    bad.write_bytes(POINTER)
    with pytest.raises(RawInputError, match=f"^{bad}: line 1: found a Git LFS pointer.*: run git lfs pull$"):
        convert("ntu", [raw], tmp_path / "data", workers=0)
    manifest = convert("ntu", [raw], tmp_path / "data", workers=0, on_error="drop").manifest
    assert [outcome.key for outcome in manifest.dropped] == [bad.stem]
    assert manifest.counts["samples"] == 2
