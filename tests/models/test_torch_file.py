"""What is said of a file that is none of torch.save, and that no code of a file ever runs."""

import gzip
import io
import os
import pickle
import random
import re
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from models.exchange.released import read_released
from models.torch_file import read_torch_file
from models.training.checkpoint import load_checkpoint, read_header
from shards.errors import CheckpointError

STATE = {"weight": torch.arange(1000.0)}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 123456\n"
PAGE = "\ufeff \n<!DOCTYPE html>\n<html><head><title>Quota exceeded</title></head></html>\n"
ALONE = re.escape("have its maker save the tensors alone: torch.save(model.state_dict(), FILE)")
AGAIN = "get the file again"


class _Code:
    """What runs a command when it is unpickled."""

    def __init__(self, command: str = "true") -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def _saved(content: Any, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def _zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return file.getvalue()


def _tarred(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("weights.pt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _scripted() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("code/__torch__.py", "data.pkl", "constants.pkl"):
            archive.writestr(f"archive/{name}", b"")
    return file.getvalue()


WHOLE, LEGACY = _saved({"state_dict": STATE}), _saved({"state_dict": STATE}, legacy=True)

FOUND: dict[str, tuple[bytes, str]] = {
    "a web page": (PAGE.encode(), rf"a web page, expected weights; {AGAIN}, signed in where its site asks for that"),
    "an answer": (
        b'{"message": "Not Found"}',
        rf"JSON, perhaps a server's answer, expected weights; {AGAIN}, signed in",
    ),
    "a Git LFS pointer": (LFS.encode(), "a Git LFS pointer, expected weights; run git lfs pull"),
    "an annex pointer": (b"/annex/objects/MD5E-s1--a.pt\n", "a git-annex pointer, expected weights; run git annex get"),
    "random bytes": (
        random.Random(5).randbytes(5000),
        f"bytes of no format that is known here, expected weights; {AGAIN}",
    ),
    "an empty file": (b"", f"an empty file, expected weights; {AGAIN}"),
    "lost content": (b"\0" * 5000, f"nothing but NUL bytes, expected weights; {AGAIN}"),
    "text": (b"not weights", f"text, expected weights; {AGAIN}"),
    "one byte": (WHOLE[:1], f"text, expected weights; {AGAIN}"),
    "a cut zip": (WHOLE[:-500], f"a zip that was cut short, expected weights; {AGAIN}"),
    "the start of a zip": (WHOLE[:40], f"a zip that was cut short, expected weights; {AGAIN}"),
    "a zip of something": (_zipped(readme_txt=b"hello"), f"a zip of readme.txt, expected weights; {AGAIN}"),
    "a zip around it": (_zipped(model_pt=WHOLE), "a zip of model.pt, expected weights; unpack it and take model.pt"),
    "a TorchScript program": (_scripted(), f"a TorchScript program, expected weights; {ALONE}"),
    "gzip data": (gzip.compress(WHOLE), "gzip data, expected weights; unpack it"),
    "a tar archive": (_tarred(WHOLE), "a tar archive, expected weights; unpack it"),
    "safetensors": (save(STATE), f"a safetensors file, expected weights; {AGAIN}"),
    "a pickle": (pickle.dumps({"weight": 1}), f"a Python pickle, expected weights; {ALONE}"),
    "a pickle that runs code": (pickle.dumps(_Code()), f"a Python pickle, expected weights; {ALONE}"),
    "a cut file of the old format": (LEGACY[:-500], f"damaged data, perhaps cut short .*, expected weights; {AGAIN}"),
    "the start of the old format": (LEGACY[:60], f"damaged data, perhaps cut short .*, expected weights; {AGAIN}"),
    "an object": (
        _saved({"args": Namespace(lr=1), "state_dict": STATE}),
        rf"a Python object \(argparse\.Namespace\) that only code of the file could bring .*; {ALONE}",
    ),
    "an object in the old format": (
        _saved({"args": Namespace(lr=1), "state_dict": STATE}, legacy=True),
        rf"a Python object \(argparse\.Namespace\) that only code of the file could bring .*; {ALONE}",
    ),
    "a whole model": (
        _saved(torch.nn.Linear(2, 2)),
        r"a Python object \(torch\.nn\.modules\.linear\.Linear\) that only code of the file could bring back",
    ),
}


@pytest.mark.parametrize("kind", FOUND)
def test_what_else_a_file_is_is_told_with_what_to_do(kind: str, tmp_path: Path) -> None:
    content, said = FOUND[kind]
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: found {said}"):
        read_torch_file(path, "weights")
    readers: tuple[Callable[[Path], object], ...] = (
        lambda file: read_released(file, "pcm3", "joint"),
        load_checkpoint,
        read_header,
    )
    for read in readers:
        with pytest.raises(CheckpointError, match=r"found .*, expected ") as caught:
            read(path)
        text = str(caught.value)
        assert "\n" not in text
        assert not re.search("weights_only|pickl(?!e, expected)", text)  # no advice to run what is in it


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_a_file_runs(legacy: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "file.pt", tmp_path / "trace"
    path.write_bytes(_saved({"args": _Code(f"touch {trace}"), "state_dict": STATE}, legacy=legacy))
    with pytest.raises(CheckpointError, match=r"found a Python object \(posix\.system\) that only code"):
        read_torch_file(path, "weights")
    assert not trace.exists()


@pytest.mark.parametrize("content", [WHOLE, LEGACY], ids=["zip", "old format"])
def test_both_formats_of_torch_are_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    assert torch.equal(read_torch_file(tmp_path / "file.pt", "weights")["state_dict"]["weight"], STATE["weight"])


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.pt", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(
            CheckpointError, match=rf"^{path}: found no file that can be read \({reason}\), expected we"
        ):
            read_torch_file(path, "weights")
