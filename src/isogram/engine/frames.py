"""Frames on a unix socket between the engine's client process and the site's warm worker.

A request is 8 bytes of length and the bytes; so is an answer, after one byte that says whether it is a reply or the
reason why there is none. Standard library only: a new client process starts for every message and reads this first.
"""

import socket
import time

from isogram.errors import IsogramError

MAX_MESSAGE = 1 << 28
"""Bytes of the largest request or reply (256 MiB). Every process on its way holds it in memory as a whole, and the
engine in its database, which does not bear much more."""

MAX_SOCKET_PATH = 103
"""Bytes of a socket's path: what the smallest of today's systems allows."""

REPLY, REASON = b"+", b"-"

_PIECE = 1 << 20


class WorkerError(IsogramError):
    """The site's worker gave no reply. The text may leave the site: it holds no path, no file and no value of it."""

    exit_code = 4


class AwayError(WorkerError):
    """It is not there, or was there no more before it had answered: it may come back, and do the same again."""


def call(path: str, request: bytes, wait: float) -> bytes:
    """Ask the worker at a socket.

    Args:
        path: its socket.
        wait: seconds until the whole reply must be here.

    Raises:
        AwayError: nobody listens, or the worker ended.
        WorkerError: the worker is late, or gives a reason.
    """
    until = time.monotonic() + wait
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(_left(until))
            connection.connect(path)
            send(connection, request, until)
            kind = _receive(connection, 1, until)
            answer = receive(connection, until)
        except TimeoutError:
            raise WorkerError(f"the site's worker did not answer within {wait:.0f} s") from None
        except EOFError:
            raise AwayError("the site's worker ended while it was at work on the request") from None
        except OSError:
            raise AwayError("the site's worker is not running") from None
    if kind != REPLY:
        raise WorkerError(answer.decode())
    return answer


def send(connection: socket.socket, data: bytes, until: float, kind: bytes = b"") -> None:
    """One frame, within the time on the monotonic clock.

    Raises:
        OSError: the other end is gone, or (TimeoutError) too slow.
    """
    connection.settimeout(_left(until))
    connection.sendall(kind + len(data).to_bytes(8, "big"))
    if data:  # of nothing even the length may have been answered and the other end closed
        connection.settimeout(_left(until))
        connection.sendall(data)


def receive(connection: socket.socket, until: float) -> bytes:
    """One frame, within the time on the monotonic clock.

    Raises:
        EOFError: the other end is gone.
        OverflowError: the frame says it is larger than `MAX_MESSAGE`; nothing of it was read.
        OSError: (TimeoutError) the other end is too slow.
    """
    size = int.from_bytes(_receive(connection, 8, until), "big")
    if size > MAX_MESSAGE:
        raise OverflowError(size)
    return _receive(connection, size, until)


def _receive(connection: socket.socket, size: int, until: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        connection.settimeout(_left(until))
        piece = connection.recv(min(size - len(data), _PIECE))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
