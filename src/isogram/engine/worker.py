"""The warm worker of a site: one process that loads data and trunk once and answers the engine's client processes.

It listens on a unix socket in a private folder and does one request at a time. The last reply is kept by the hash of
its request: when a client process dies, or a reply is lost on its way, the same request is answered without any work.
"""

import fcntl
import hashlib
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from isogram.engine.frames import MAX_MESSAGE, MAX_SOCKET_PATH, REASON, REPLY, receive, send
from isogram.errors import ConfigError, IsogramError, RunError
from isogram.files import make_folder, writing

TRANSFER = 120.0
"""Seconds for a frame on the socket. Both ends are on one machine: who takes longer is stopped or gone."""

Respond = Callable[[bytes], bytes]

log = logging.getLogger(__name__)


def serve(respond: Respond, socket_path: Path, stop: threading.Event | None = None) -> None:
    """Answer requests until `stop` is set, or the process ends.

    An error in `respond` becomes a reason for the server that names only its class; this site's log has the rest.

    Raises:
        ConfigError: the socket's path is too long, or others may enter its folder.
        RunError: another worker serves this socket.
        StorageError: the folder cannot be made.
    """
    stop = stop or threading.Event()
    with _listening(socket_path) as listener:
        kept: tuple[bytes, bytes] | None = None
        while not stop.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                with connection:
                    kept = _answer(connection, respond, kept)


def _answer(
    connection: socket.socket, respond: Respond, kept: tuple[bytes, bytes] | None
) -> tuple[bytes, bytes] | None:
    """One request; hash and reply of the last one that was answered."""
    try:
        request = receive(connection, time.monotonic() + TRANSFER)
    except OverflowError:
        _reply(connection, REASON, f"its worker refused a request of more than {MAX_MESSAGE:,} bytes".encode())
        return kept
    except (EOFError, OSError):
        log.warning("a client process went away in the middle of its request")
        return kept
    key = hashlib.sha256(request).digest()
    if kept is None or kept[0] != key:
        kept = None  # not two large replies at once
        try:
            reply = respond(request)
        except Exception as error:
            known = isinstance(error, IsogramError)
            log.error("no answer to a request: %s", error, exc_info=not known)
            why = f"its worker {'refused the request' if known else 'failed'} ({type(error).__name__}): the log there"
            _reply(connection, REASON, f"{why} says why".encode())
            return None
        if len(reply) > MAX_MESSAGE:
            why = f"its worker's reply has {len(reply):,} bytes, the engine carries at most {MAX_MESSAGE:,}"
            _reply(connection, REASON, why.encode())
            return None
        kept = key, reply
    _reply(connection, REPLY, kept[1])
    return kept


def _reply(connection: socket.socket, kind: bytes, data: bytes) -> None:
    try:
        send(connection, data, time.monotonic() + TRANSFER, kind)
    except OSError:
        log.warning("a client process went away before its answer; the same request will be answered from memory")


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the worker's socket {path} has a path of more than {MAX_SOCKET_PATH} bytes, which systems refuse; "
            "choose a folder nearer to the root"
        )
    _private(path.parent)
    with ExitStack() as stack:
        with writing(path):
            lock = stack.enter_context(path.with_name(f"{path.name}.lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another worker serves {path}; stop it first") from None
            path.unlink(missing_ok=True)  # of a worker that was killed: the lock is ours
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(str(path))
            stack.callback(path.unlink, missing_ok=True)
            path.chmod(0o600)
            listener.listen()
            listener.settimeout(0.5)
        yield listener


def _private(folder: Path) -> None:
    if not folder.exists():
        make_folder(folder.parent)
        with writing(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(
            f"others may enter {folder}, where the worker's socket is to be; chmod it to 700, as its owner"
        )
