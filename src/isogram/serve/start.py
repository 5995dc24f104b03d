"""The server itself: where it listens, who may come, how it ends."""

import secrets
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlencode

from isogram.errors import ConfigError
from isogram.serve.app import LOOPBACK, create_app
from isogram.serve.site import Site

PORT = 8470
"""Where it listens if that is free and no other port is named."""

PATIENCE = 10
"""Seconds that who has asked is answered after Ctrl-C."""

SHORTEST = 16
"""Letters of a token, at least."""


@dataclass(frozen=True)
class Door:
    """Where a server is to listen, and what who comes has to know.

    named: the port that was asked for; None: any, 8470 if it is free. token: "" where none is needed.
    """

    host: str
    named: int | None
    token: str

    @classmethod
    def of(cls, host: str, port: int | None, token: str | None) -> "Door":
        """A door of this machine alone is open to its users, any other one needs a token: one is made if none is given.

        Raises:
            ConfigError: the token can be guessed.
        """
        if token is not None and len(token) < SHORTEST:
            raise ConfigError(
                f"--token is {len(token)} letters long; give at least {SHORTEST}, or leave it out and take the one made"
            )
        if token is None:
            token = "" if host in LOOPBACK else secrets.token_urlsafe(24)
        return cls(host, port, token)

    def open(self) -> socket.socket:
        """A socket that listens.

        Raises:
            ConfigError: the port that was named is taken, or the host is none of this machine.
        """
        wanted = PORT if self.named is None else self.named
        try:
            return self._listen(wanted)
        except (OSError, ValueError) as error:  # of a name that is none, it is a UnicodeError, or of a NUL
            if self.named is None:
                with suppress(OSError, ValueError):  # if it is the host, the first error says so, too
                    return self._listen(0)
            raise ConfigError(
                f"cannot listen at {self.host!r}, port {wanted}: {getattr(error, 'strerror', None) or error}; name "
                "another --host or --port, or leave --port out: a free one is taken"
            ) from error

    def _listen(self, port: int) -> socket.socket:
        family, kind, protocol, _, address = socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            # A server that has just ended leaves its port waiting for a minute.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
        return listening

    def address(self, listening: socket.socket) -> str:
        """What to open in a browser."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        shown = f"[{host}]" if ":" in host else host
        asked = f"?{urlencode({'token': self.token})}" if self.token else ""
        return f"http://{shown}:{listening.getsockname()[1]}/{asked}"


def serve(site: Site, door: Door, told: Callable[[str], None], *, browser: bool = False) -> None:
    """Serve a site until Ctrl-C.

    Args:
        site: what is shown.
        door: where.
        told: is given the address, and that the server has ended.
        browser: open the address.

    Raises:
        ConfigError: it cannot listen there.
    """
    import uvicorn

    settings = uvicorn.Config(
        create_app(site, token=door.token),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=PATIENCE,
    )
    with door.open() as listening:
        address = door.address(listening)
        told(f"{site.name or 'the page'} is at {address} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(address)
        with suppress(KeyboardInterrupt):  # uvicorn has ended in order, and passes Ctrl-C on
            uvicorn.Server(settings).run(sockets=[listening])
    told("ended")
