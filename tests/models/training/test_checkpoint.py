import errno
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.training.checkpoint import (
    CHECKPOINT_VERSION,
    Checkpoint,
    encoder_state,
    latest_checkpoint,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    read_header,
    save_checkpoint,
)
from shards.errors import CheckpointError


def example(epoch: int = 10, within: int = 0, **changes: Any) -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    state = {
        "encoders.joint.weight": torch.randn(30, 40, generator=generator),
        "encoders.joint.norm.steps": torch.tensor(3),
        "encoders.joints": torch.zeros(1),
        "encoders.bone.weight": torch.zeros(2),
        "key_encoder.weight": torch.ones(2),
        "queue": torch.randn(4, 3, generator=generator),
    }
    return Checkpoint(
        epoch=epoch,
        step=epoch * 7 + within,
        epoch_steps=7,
        config={"lr": 0.1 + 0.2, "milestones": [3]},
        meta={"fingerprint": "abc123", "recipe": "pcm3"},
        objective=state,
        optimizer={"encoders.joint.weight/momentum_buffer": torch.randn(30, 40, generator=generator)},
        terms=torch.rand(within, 2, dtype=torch.float64, generator=generator),
        term_names=("a", "b"),
        losses=torch.rand(epoch, dtype=torch.float64, generator=generator),
        **changes,
    )


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_what_is_loaded_is_what_was_saved_bit_for_bit(tmp_path: Path) -> None:
    saved = example(within=4)
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved, keep=3), expect_fingerprint="abc123")
    assert (loaded.epoch, loaded.step, loaded.first_step) == (10, 74, 4)
    assert loaded.config == saved.config
    assert loaded.meta == saved.meta
    assert loaded.term_names == ("a", "b")
    assert equal(loaded.objective, saved.objective)
    assert equal(loaded.optimizer, saved.optimizer)
    assert torch.equal(loaded.terms, saved.terms)
    assert torch.equal(loaded.losses, saved.losses)
    assert loaded.losses.shape == (10,)


def test_equal_states_give_equal_bytes_in_any_folder(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path / "a", example(), keep=1)
    second = save_checkpoint(tmp_path / "b", example(), keep=1)
    assert first.read_bytes() == second.read_bytes()


def test_the_file_name_tells_epochs_and_steps(tmp_path: Path) -> None:
    assert save_checkpoint(tmp_path, example(10), keep=9).name == "epoch_0010.pt"
    assert save_checkpoint(tmp_path, example(10, 4), keep=9).name == "epoch_0010_step_000004.pt"


def test_the_latest_is_the_furthest_not_the_last_written_or_the_last_by_name(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for epoch, within in [(10000, 0), (9999, 3), (9999, 0), (2, 5)]:
        save_checkpoint(tmp_path, example(epoch, within), keep=9)
    (tmp_path / "checkpoints" / "zzz.pt").write_bytes(b"")
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "epoch_10000.pt"


def test_only_the_last_few_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        save_checkpoint(tmp_path, example(epoch), keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["epoch_0004.pt", "epoch_0005.pt"]


def test_those_that_stay_for_good_are_beside_the_last_few(tmp_path: Path) -> None:
    for epoch in range(1, 10):
        for within in (0, 3):
            save_checkpoint(tmp_path, example(epoch, within), keep=2, stays=lambda epoch: epoch in (2, 6))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "epoch_0002.pt",
        "epoch_0006.pt",
        "epoch_0009.pt",
        "epoch_0009_step_000003.pt",
    ]


@pytest.mark.parametrize("read", [load_checkpoint, read_header])
def test_another_fingerprint_is_refused_telling_both(tmp_path: Path, read: Any) -> None:
    path = save_checkpoint(tmp_path, example(), keep=1)
    with pytest.raises(CheckpointError, match=r"epoch_0010\.pt: found .*abc123.*expected .*def456"):
        read(path, expect_fingerprint="def456")


def test_the_header_tells_all_but_the_tensors_and_reads_none(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, example(within=4), keep=1)
    whole = load_checkpoint(path)
    numbers = whole.objective["encoders.joint.weight"].numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(numbers)] ^= 1
    path.write_bytes(data)
    header = read_header(path)
    assert {name: getattr(whole, name) for name in vars(header)} == vars(header)
    assert (header.epoch, header.step, header.first_step, header.meta["recipe"]) == (10, 74, 4, "pcm3")


def test_a_damaged_header_is_found_without_reading_tensors(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, example(), keep=1)
    data = bytearray(path.read_bytes())
    data[data.index(b"abc123")] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"epoch_0010\.pt: found damaged data"):
        read_header(path)


@pytest.mark.parametrize("where", [0, 1234, -1])
@pytest.mark.parametrize("name", ["objective", "optimizer"])
def test_one_flipped_bit_anywhere_in_a_tensor_is_found(tmp_path: Path, name: str, where: int) -> None:
    path = save_checkpoint(tmp_path, example(), keep=1)
    # the padding between the members of the archive holds nothing, so the bit is flipped where the numbers lie
    entry = f"encoders.joint.weight{'/momentum_buffer' * (name == 'optimizer')}"
    numbers = getattr(example(), name)[entry].numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(numbers) + range(len(numbers))[where]] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"epoch_0010\.pt: found damaged data"):
        load_checkpoint(path)


@pytest.mark.parametrize("read", [load_checkpoint, read_header])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, read: Any) -> None:
    path = save_checkpoint(tmp_path, example(), keep=1)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    found = "an empty file" if share == 0 else "a zip that was cut short"
    with pytest.raises(
        CheckpointError, match=rf"epoch_0010\.pt: found {found}, .*; .*remove it to go on from the one be"
    ):
        read(path)


def test_a_missing_file_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt: found no file that can be read \(No such file or dir"):
        load_checkpoint(tmp_path / "none.pt")


def foreign_files() -> dict[str, bytes]:
    def torch_file(tree: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(tree, buffer)
        return buffer.getvalue()

    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return {
        "text": b"hello",
        "zip": zipped.getvalue(),
        "state dict": torch_file({"encoder.weight": torch.zeros(2)}),
        "list": torch_file([1, 2]),
        "other json": torch_file({"json": "{}"}),
        "no json": torch_file({"json": "{"}),
        "json list": torch_file({"json": "[]"}),
        "other magic": torch_file({"json": json.dumps({"magic": "x", "version": 1})}),
        "missing fields": torch_file(
            {"json": json.dumps({"magic": "skelstream-checkpoint", "version": CHECKPOINT_VERSION})}
        ),
    }


@pytest.mark.parametrize("read", [load_checkpoint, read_header])
@pytest.mark.parametrize("name", sorted(foreign_files()))
def test_a_foreign_file_is_refused(tmp_path: Path, name: str, read: Any) -> None:
    path = tmp_path / "epoch_0001.pt"
    path.write_bytes(foreign_files()[name])
    with pytest.raises(CheckpointError, match=r"epoch_0001\.pt: found .*expected a skelstream checkpoint"):
        read(path)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code of a checkpoint was run",))


@pytest.mark.parametrize("read", [load_checkpoint, read_header])
@pytest.mark.parametrize("as_zip", [True, False])
def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path: Path, as_zip: bool, read: Any) -> None:
    path = tmp_path / "epoch_0001.pt"
    if as_zip:
        torch.save({"json": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({"json": Bomb()}))
    with pytest.raises(CheckpointError, match="expected a skelstream checkpoint"):
        read(path)


@pytest.mark.parametrize("read", [load_checkpoint, read_header])
def test_another_format_version_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any) -> None:
    monkeypatch.setattr("models.training.checkpoint.CHECKPOINT_VERSION", 1)
    path = save_checkpoint(tmp_path, example(), keep=1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"found checkpoint format 1, expected 3: .* evaluate it with that"):
        read(path)


def test_a_state_with_nan_is_not_written_and_the_one_before_stays(tmp_path: Path) -> None:
    before = save_checkpoint(tmp_path, example(1), keep=1)
    bad = example(2)
    bad.objective["queue"][1, 1] = float("nan")
    with pytest.raises(CheckpointError, match="NaN or infinity in queue"):
        save_checkpoint(tmp_path, bad, keep=1)
    assert list((tmp_path / "checkpoints").iterdir()) == [before]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_no_trace_and_names_the_checkpoint_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = save_checkpoint(tmp_path, example(1), keep=1)

    def full(payload: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"epoch_0002\.pt: found no space left .*epoch_0001\.pt stays"):
        save_checkpoint(tmp_path, example(2), keep=1)
    assert list((tmp_path / "checkpoints").iterdir()) == [before]


def test_another_failure_of_a_write_is_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(payload: Any, file: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(torch, "save", broken)
    expected = (
        r"epoch_0010\.pt: found an error of the disk \(Input/output error\), expected a sound one .* no earlier one"
    )
    with pytest.raises(CheckpointError, match=expected):
        save_checkpoint(tmp_path, example(), keep=1)


# a limit of the kernel on the size of a file: the write fails within torch, which wraps what it gets
LIMITED = """
import resource, sys
from pathlib import Path
import torch
from models.training.checkpoint import Checkpoint, save_checkpoint
from shards.errors import CheckpointError

def state(epoch, size):
    return Checkpoint(
        epoch=epoch, step=epoch, epoch_steps=1, config={}, meta={}, objective={"x": torch.ones(size)}, optimizer={}
    )

run = Path(sys.argv[1])
save_checkpoint(run, state(1, 10), keep=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for epoch, size in ((2, 30_000), (3, 3_000_000)):
    try:
        save_checkpoint(run, state(epoch, size), keep=1)
    except CheckpointError as error:
        print(error)
"""


def test_a_file_that_cannot_grow_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for line, name in zip(process.stdout.splitlines(), ("epoch_0002.pt", "epoch_0003.pt"), strict=True):
        assert f"{name}: found no space left (File too large)" in line
        assert "epoch_0001.pt stays" in line
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch_0001.pt"]


def test_what_killed_processes_left_goes_before_the_next_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / ".epoch_0001.pt.abcd.tmp").write_bytes(bytes(1000))
    seen: list[list[str]] = []
    save = torch.save

    def watched(payload: Any, file: Any) -> None:
        seen.append([path.name for path in folder.glob("*.abcd.tmp")])
        save(payload, file)

    monkeypatch.setattr(torch, "save", watched)
    save_checkpoint(tmp_path, example(), keep=1)
    assert seen == [[]]


def test_the_encoder_state_is_the_online_encoder_alone() -> None:
    assert encoder_state(example(), "joint").keys() == {"weight", "norm.steps"}
    assert encoder_state(example(), "bone").keys() == {"weight"}


def test_an_objective_without_encoder_is_told() -> None:
    with pytest.raises(CheckpointError, match=r"expected some under 'encoders\.joint\.'"):
        encoder_state(replace(example(), objective={"head.weight": torch.zeros(1)}), "joint")
    with pytest.raises(CheckpointError, match=r"found the entries .*, expected some under 'encoders\.motion\.'"):
        encoder_state(example(), "motion")


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimiser_goes_on_as_if_never_stored(kind: type[torch.optim.Optimizer]) -> None:
    def model() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        options: dict[str, Any] = {"lr": 0.1} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
        return layer, kind(layer.parameters(), **options)

    def step(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.arange(3.0)).square().sum().backward()
        optimizer.step()

    names = {0: "weight", 1: "bias"}
    layer, optimizer = model()
    step(layer, optimizer)
    other, restored = model()
    other.load_state_dict(layer.state_dict())
    load_optimizer(restored, {k: v.clone() for k, v in optimizer_tensors(optimizer, names).items()}, names)
    step(layer, optimizer)
    step(other, restored)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)


def test_an_optimiser_goes_on_when_the_file_of_its_checkpoint_is_gone(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.zeros(30, 40))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    path = save_checkpoint(tmp_path, example(), keep=1)
    load_optimizer(optimizer, load_checkpoint(path).optimizer, {0: "encoders.joint.weight"})
    path.write_bytes(bytes(path.stat().st_size))
    buffer = optimizer.state[parameter]["momentum_buffer"]
    assert torch.equal(buffer, example().optimizer["encoders.joint.weight/momentum_buffer"])


def test_optimiser_state_of_an_unknown_parameter_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(CheckpointError, match="'other'"):
        load_optimizer(optimizer, {"other/momentum_buffer": torch.zeros(1)}, {0: "weight"})
