"""A lock so that only one process writes a folder. The operating system frees the lock when its process dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from concordant.core.errors import UserError
from concordant.runs.names import LOCK


class FolderLock:
    """Holds the lock from construction to ``release``. A second process gets a UserError that names the first."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._descriptor = _take(self.path)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, (json.dumps(holder) + "\n").encode(), 0)
        except OSError:  # a full disk: nobody holds the folder
            self.release()
            raise

    def release(self) -> None:
        """Free the lock. A second call does nothing."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)  # while the lock is held, so that a waiting process sees a changed file
            os.close(self._descriptor)
            self._descriptor = -1


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file ``path``. The function takes the lock and frees it at once."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(
                f"{path.parent} is in use by {_holder(path)}; wait for it or choose another --output"
            ) from None
        try:
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass  # the file was removed between open and flock, so this lock protects nothing
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
