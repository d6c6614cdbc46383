"""Who owns a spool: an exclusive `flock` on one lock file per spool, which also carries its owner's status.

The lock file appears under its name only when it is locked already. A process that ends, however it ends,
gives its lock back; a forked child closes the descriptor it inherited and so never gives up its parent's.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_STATUS_BYTES = 4096


class SpoolLock:
    """A held lock. `status` overwrites the file's content in place, within room taken at the start."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def create(cls, path: Path) -> SpoolLock:
        """Makes a new lock file, held from the moment it can be seen."""
        hidden = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(fd, b" " * _STATUS_BYTES, 0)
            os.rename(hidden, path)
        except BaseException:
            os.close(fd)
            hidden.unlink(missing_ok=True)
            raise
        return cls(path, fd)

    @classmethod
    def take(cls, path: Path) -> SpoolLock | None:
        """Takes a lock that nobody holds; None where somebody does, or where the file is gone."""
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking its owner may have removed it: then this is nobody's file.
            if os.fstat(fd).st_ino == os.stat(path).st_ino:
                return cls(path, fd)
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return None

    def write_status(self, status: bytes) -> None:
        """Shows the owner's status (JSON, at most 4 KB; longer ones are not written)."""
        if len(status) <= _STATUS_BYTES:
            os.pwrite(self._fd, status.ljust(_STATUS_BYTES), 0)

    def remove(self) -> None:
        """Removes the file and gives the lock back."""
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Gives the lock back and leaves the file: the spool is anyone's to adopt."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    forget = release
    """In a forked child: closes the inherited descriptor; the lock stays its parent's."""


def is_held(path: Path) -> bool:
    """Whether somebody holds this lock now."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def read_status(path: Path) -> bytes:
    """The status its owner shows; empty where there is none."""
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        return b""
