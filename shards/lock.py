"""Locks on files that whoever holds them takes away when leaving; the kernel frees them when the process dies."""

import fcntl
import os
from pathlib import Path


def acquire(path: Path, *, wait: bool = False, create: bool = True) -> int | None:
    """Lock the file exclusively; the caller removes it, then closes the descriptor, to leave it.

    Args:
        path: of the lock; no link is followed.
        wait: until others leave it.
        create: the file where it is not there.

    Returns:
        Its descriptor; None when another process holds it.

    Raises:
        OSError: the file cannot be opened or made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # one who left between our two calls took the file with it: then this lock is on nothing
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.close(descriptor)
