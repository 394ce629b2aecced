import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import StoreError
from shards.npz import read_npz

_BYTES = io.BytesIO()
np.savez_compressed(_BYTES, ids=np.arange(40), name=np.array("joint"), rows=np.eye(7))
WHOLE = _BYTES.getvalue()


def test_arrays_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(WHOLE)
    found = read_npz(tmp_path / "a.npz", ("rows", "ids"), "masks")
    assert list(found) == ["rows", "ids"]
    assert np.array_equal(found["rows"], np.eye(7))
    assert np.array_equal(found["ids"], np.arange(40))


def _zipped(header: bytes) -> bytes:
    """An .npz whose array `ids` has this text for its header."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ids.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        WHOLE[:-30],
        WHOLE.replace(b"ids.npy", b"odd.npy"),
        _zipped(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"),
        _zipped(b"{'descr': '<f8', 'fortran_order': False, 'shape': (10**15,), }\n"),
        _zipped(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }\n"),
        _zipped(b"{'descr': '<f8', 'shape': (((\n"),
        _zipped(b"'''\n"),
    ],
)
def test_what_holds_no_such_arrays_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.npz: found no masks \(.*\), expected `rows`, `name` and `ids`$"):
        read_npz(path, ("rows", "name", "ids"), "masks")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere\.npz: found no masks \(.*No such file.*\), expected `a` and `b`$"):
        read_npz(tmp_path / "nowhere.npz", ("a", "b"), "masks")


@settings(max_examples=300)
@given(place=st.integers(0, len(WHOLE) - 1), flip=st.integers(1, 255), cut=st.booleans())
def test_an_altered_file_is_refused_or_reads_the_same(place: int, flip: int, cut: bool) -> None:
    data = bytearray(WHOLE)
    data[place] ^= flip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        path.write_bytes(data[:place] if cut else data)
        try:
            found = read_npz(path, ("ids", "rows"), "masks")
        except StoreError:
            return
    assert np.array_equal(found["ids"], np.arange(40))
    assert np.array_equal(found["rows"], np.eye(7))
