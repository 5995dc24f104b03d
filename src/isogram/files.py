"""Files that are never seen half written, and errors of the disk in words."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from isogram.errors import DataError, RunError, StorageError

_REMEDIES = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some of your disk quota",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.EACCES: "get permission to write there, or name another folder",
    errno.EPERM: "get permission to write there, or name another folder",
    errno.ENOTDIR: "a file is where a folder should be: move it away, or name another folder",
    errno.EEXIST: "a file is where a folder should be: move it away, or name another folder",
}


@contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[None]:
    """What goes wrong while `path` is written, as one sentence that names it and what to do.

    Raises:
        StorageError: for any OSError inside; `remedy` is added to the usual one for its kind.
    """
    try:
        yield
    except OSError as error:
        steps = [text for text in (_REMEDIES.get(error.errno or 0, "name another folder"), remedy) if text]
        raise StorageError(f"cannot write {path}: {error.strerror or error}; {', or '.join(steps)}") from error


@contextmanager
def alone(folder: Path, told: str) -> Iterator[None]:
    """The folder for this process alone; a process that dies lets go of it.

    Raises:
        RunError: another one has it, in the words `told`.
        StorageError: the lock cannot be written.
    """
    lock = FileLock(folder / ".lock")
    with writing(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(told) from None
    try:
        yield
    finally:
        lock.release()


def make_folder(path: Path) -> None:
    """The folder and those above it.

    Raises:
        StorageError: it cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_atomic(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace a file as a whole: a temporary one beside it is synced, then renamed over it.

    A process killed at any moment leaves the old file or the new one under this name, never a part. Who may read it
    is said by `mode`, less the process's umask, from its first byte on.

    Raises:
        StorageError: disk full, no permission; the old file is as it was.
    """
    with writing(path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)


def temporary_files(folder: Path) -> list[Path]:
    """What killed writers left in a folder; nobody reads it."""
    return sorted(folder.glob(".*.tmp"))


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines at the end and sync. A killed process may leave part of them: see `keep_lines`.

    Raises:
        StorageError: disk full, no permission.
    """
    with writing(path):
        new = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        if new:
            _sync_folder(path.parent)


def keep_lines(path: Path, count: int | None = None) -> list[str]:
    """Cut a file of lines back to its first `count`, or to all that are whole: an interrupted `append_lines` left more.

    Raises:
        DataError: the file holds fewer: somebody else changed it.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.split("\n")
    count = len(lines) - 1 if count is None else count
    if len(lines) <= count:
        raise DataError(f"{path} holds {len(lines) - 1} lines, {count} were written; the run cannot be continued")
    kept = lines[:count]
    if lines[count:] != [""]:
        write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
    return kept


def _sync_folder(folder: Path) -> None:
    # The rename itself is only on the disk once the folder is; Windows cannot open folders and needs no sync.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
