"""Why a process of the engine ended, in words, from what it had written."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from isogram.errors import RunError

LEASE = 150.0
"""Seconds after which a node that the server refuses is none that was killed: those it lets in again after 75."""

LET_IN = "SuperNode ID:"
"""What a node has written once the server has let it in."""

_CODE = re.compile(r"Exit Code: (\d+)\n(.*)")
_COLOUR = re.compile(r"\x1b\[\d*m")
_CERTIFICATE = {
    "ostname mismatch": "is for another host: connect to one that it names, or have it made anew",
    "address mismatch": "is for another host: connect to one that it names, or have it made anew",
    "has expired": "has expired, or this machine's clock is wrong: set the clock, or have it made anew",
    "not yet valid": "is not valid yet: set this machine's clock",
}


def last_line(written: str) -> str:
    """The last that a process said; its own sentence where it ended on purpose."""
    lines = [line for line in _COLOUR.sub("", written).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""


@dataclass
class NodeEnd:
    """Of a site's node: what the server has against it.

    name: of the node. server: its address. authority: what the site trusts the server by. key: the node's private key.
    """

    name: str
    server: str
    authority: Path
    key: Path
    refused: float | None = None

    def __call__(self, written: str) -> str:
        """Why it ended; "" if that is not known.

        Raises:
            RunError: it will not do better the next time.
        """
        if "CERTIFICATE_VERIFY_FAILED" in written:
            how = next((words for found, words in _CERTIFICATE.items() if found in written), None)
            how = how or f"was not signed by {self.authority}: put the consortium's there, or correct server.address"
            raise RunError(f"node {self.name}: the certificate of the server at {self.server} {how}")
        if LET_IN in written:
            self.refused = None
        if "[code: 2004]" in written:
            return self._refused()
        if "terminated gracefully" in written:
            return (
                f"it was stopped, or the server at {self.server} does not take its signature any more: its key was put "
                "out there, or its clock is more than 5 s ahead of the server's or 5 minutes behind"
            )
        return _told(written)

    def _refused(self) -> str:
        """The engine says the same of a key that it does not know and of a node that it believes to be running."""
        now = time.monotonic()
        self.refused = now if self.refused is None else self.refused
        what = f"the server at {self.server} refuses node {self.name}"
        if now - self.refused > LEASE:
            raise RunError(
                f"{what} since {now - self.refused:.0f} s: its key {self.key} is not registered there, or a node runs "
                "with it elsewhere; end that one, or have the coordinator compare the keys"
            )
        return (
            f"{what}: its key {self.key} is not registered there, or still counts as running, as one that was killed "
            "does for 75 s; wait: a server that has just been started lets its nodes in one after the other"
        )


def server_ended(written: str) -> str:
    """Of the server's process: why it ended; "" if that is not known."""
    if "address already in use" in written:
        return "another program listens on its port; stop that one"
    if "Exit Code: 105" in written:
        return "state/engine.db is of another version of flwr; move it away: runs are not in it, and nodes come back"
    return _told(written)


def _told(written: str) -> str:
    found = _CODE.search(_COLOUR.sub("", written))
    return f"the engine's exit code {found[1]}: {found[2]}" if found else ""
