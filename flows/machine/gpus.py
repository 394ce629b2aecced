"""Who may compute on which GPU of this machine, so that two trainings never share one by accident.

A lease is a lock on a file that is named by the GPU, in a folder that all users of the machine share; the kernel takes
it back when the process dies, however it dies. Who wants a GPU for itself locks the file exclusively, notes its process
and run in it, and then keeps the lock shared: so the ranks that it starts can join it, and outlive it if it is killed.
"""

import fcntl
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from flows.machine import rank
from shards.errors import ConfigError

FOLDER = "SKELSTREAM_LEASES"
"""Environment variable that names another folder of leases, such as one that several containers mount."""

_DEFAULT_FOLDER = "/tmp/skelstream-gpus"  # not in TMPDIR, which may differ between users
_POLL = 1.0  # seconds; the kernel does not tell which of several locks becomes free
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OPEN = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Say = Callable[[str], None]


def to_stderr(text: str) -> None:
    """Tell the user; of several ranks the leader alone does."""
    if rank.is_leader():
        print(f"skelstream: {text}", file=sys.stderr, flush=True)


def gpu_names() -> tuple[str, ...]:
    """UUID of each GPU that this process sees, in the order of CUDA's numbers."""
    return tuple(str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count()))


@contextmanager
def lease_gpus(
    device: torch.device, *, count: int = 1, share: bool = False, about: str, say: Say = to_stderr
) -> Iterator[tuple[torch.device, ...]]:
    """Hold the only right to compute on `count` GPUs, and yield them; what is not CUDA is yielded as it is.

    Where all are taken it waits, and says for whom. A rank that torchrun started does not wait, because the others
    would wait for it. The ranks of `flows.machine.launch` join the lease of the process that started them.

    Args:
        device: with a number that very GPU, else any that this process sees.
        count: how many.
        share: compute beside others; a process that does not share waits for this one all the same.
        about: the run, for whoever waits.
        say: tells the user.

    Raises:
        ConfigError: in a rank, the GPU is taken; or the folder of leases cannot be used.
    """
    if device.type != "cuda":
        yield (device,) * count
        return
    names = gpu_names()
    numbers = list(range(len(names))) if device.index is None else [device.index]
    started = rank.is_rank() and os.environ.get("TORCHELASTIC_RUN_ID") == rank.RUN_ID
    wanted = [names[number] for number in numbers]
    with ExitStack() as stack:
        if share or started:
            stack.enter_context(joined(wanted[:count], about=about))
            taken = list(range(count))
        else:
            taken = stack.enter_context(held(wanted, count, about=about, wait=not rank.is_rank(), say=say))
        devices = tuple(torch.device("cuda", numbers[place]) for place in taken)
        if count == 1:  # streams and events that name no device are of the current one
            stack.enter_context(torch.cuda.device(devices[0]))
        yield devices


@contextmanager
def visible(devices: Sequence[torch.device]) -> Iterator[None]:
    """Processes that are started see these GPUs alone, as 0, 1, ...; no change where they are none."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if any(device.type != "cuda" for device in devices):
        yield
        return
    entries = before.split(",") if before else [str(n) for n in range(torch.cuda.device_count())]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(entries[device.index] for device in devices)
    try:
        yield
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


@contextmanager
def held(
    names: Sequence[str], count: int, *, about: str, wait: bool = True, say: Say = to_stderr, folder: Path | None = None
) -> Iterator[list[int]]:
    """Hold `count` of the named things for this process and those that it lets join; yields their places in `names`.

    All or none are taken, so that two who want several never wait for each other.

    Args:
        names: plain file names.
        count: how many of them.
        about: what for.
        wait: until they are free; else an error at once.
        say: tells for whom it waits, once for each change.
        folder: of the leases; None is that of the machine.

    Raises:
        ConfigError: not to be had and `wait` is not set, or the folder cannot be used.
    """
    assert 1 <= count <= len(names), f"{count} of {len(names)}"
    said = ""
    with _open_folder(folder) as inside:
        while True:
            taken, busy = _take(inside, names, count, about)
            if taken:
                break
            text = f"found fewer free GPUs than the {count} wanted: {'; '.join(_held_by(inside, n) for n in busy)}"
            if not wait:
                raise ConfigError(f"{text}, expected a free one, or share_gpu=true to compute beside others")
            if text != said:
                say(f"{text}; waiting until enough are free")
                said = text
            time.sleep(_POLL)
        with _closing(taken.values()):
            yield sorted(taken)


@contextmanager
def joined(names: Sequence[str], *, about: str, folder: Path | None = None) -> Iterator[None]:
    """Hold a share in all of the named things, whoever else does; who wants one for itself waits for this process."""
    with _open_folder(folder) as inside, ExitStack() as stack:
        for name in names:
            descriptor = _open(inside, name)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # held exclusively for moments only
            _note(descriptor, about)
        yield


def _take(inside: int, names: Sequence[str], count: int, about: str) -> tuple[dict[int, int], list[str]]:
    """Descriptors of the first `count` free ones by their place in `names`; nothing, and the others' names, where there
    are fewer."""
    taken: dict[int, int] = {}
    busy: list[str] = []
    for place, name in enumerate(names):
        descriptor = _open(inside, name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            _note(descriptor, about)
            # not one step for the kernel: another may come between, and then this fails
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            busy.append(name)
            continue
        taken[place] = descriptor
        if len(taken) == count:
            return taken, busy
    with _closing(taken.values()):
        return {}, busy


@contextmanager
def _closing(descriptors: Iterable[int]) -> Iterator[None]:
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def _open_folder(folder: Path | None) -> Iterator[int]:
    """A descriptor of the folder of leases, which is made where it is not there; no link is followed."""
    path = folder or Path(os.environ.get(FOLDER) or _DEFAULT_FOLDER)
    try:
        is_new = _make(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        if is_new:
            os.fchmod(descriptor, 0o1777)  # whoever comes may add files, and nobody may remove those of others
    except OSError as error:
        raise _unusable(path, str(error)) from error
    with _closing([descriptor]):
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # systemd-tmpfiles leaves a locked folder alone, however old it is
        yield descriptor


def _make(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _open(inside: int, name: str) -> int:
    """A descriptor of a lease's file, which is made where it is not there."""
    assert _NAME.fullmatch(name), name
    try:
        while True:
            with suppress(FileNotFoundError):
                # two steps: in a shared folder Linux refuses O_CREAT for a file of another user
                descriptor = os.open(name, _OPEN, dir_fd=inside)
                break
            with suppress(FileExistsError):
                descriptor = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=inside)
                os.fchmod(descriptor, 0o666)  # whatever the umask
                break
    except OSError as error:
        raise _unusable(Path(name), str(error)) from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(descriptor)
        raise _unusable(Path(name), "no plain file")
    return descriptor


def _note(descriptor: int, about: str) -> None:
    """Add who holds the lease, for those who wait; of no other use."""
    os.write(descriptor, f"{os.getpid()} {' '.join(about.split())[:200]}\n".encode(errors="replace"))


def _held_by(inside: int, name: str) -> str:
    """Who noted that they hold a lease and are still alive, as far as one can see from here."""
    descriptor = _open(inside, name)
    with _closing([descriptor]):
        lines = os.pread(descriptor, 1 << 16, 0).decode(errors="replace").splitlines()
    noted = (line.partition(" ") for line in lines)
    alive = [f"process {pid} ({run})" for pid, _, run in noted if pid.isdecimal() and _is_alive(int(pid))]
    return f"GPU {name} held by {', '.join(alive) or 'a process that cannot be seen from here'}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path}: found a place for GPU leases that cannot be used ({why}), expected a plain folder with plain files"
        f" that all users of this machine may write; {FOLDER} names another, share_gpu=true does without"
    )
