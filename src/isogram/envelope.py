"""What goes over a wire between server and node: messages bundled for one journey there, and the answer back.

Layout: 8 bytes of length, that much JSON, and the messages one after the other. A reader believes nothing of it before
it has checked that the lengths add up.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from isogram.errors import MessageError
from isogram.wire import MAX_HEADER

PROTOCOL = 1
"""Of these bundles. Server and nodes of another number refuse each other."""


@dataclass(frozen=True)
class Part:
    """One step of a request: its number among all that this node was ever sent, and the message that comes with it."""

    number: int
    step: str
    round: int
    message: bytes


@dataclass(frozen=True)
class Request:
    """What a node is to do, in order: steps that give nothing, and at most one, the last, that gives a message.

    run: name of the run. settings: fingerprint of the settings that both sides need alike. stage: 0 while aligning,
    then the training round, from 1, and the number after the last one when the run is over. attempt: raised each time
    that the server goes on after it was stopped. made: of each stage before, the attempt in which it was completed.
    """

    node: str
    run: str
    settings: str
    stage: int
    attempt: int
    parts: tuple[Part, ...]
    made: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        """The request as one blob."""
        header = {name: value for name, value in asdict(self).items() if name != "parts"}
        steps = [{"number": p.number, "step": p.step, "round": p.round, "bytes": len(p.message)} for p in self.parts]
        return _packed("Request", header | {"steps": steps}, [part.message for part in self.parts])

    @classmethod
    def read(cls, blob: bytes) -> Self:
        """Parse a request.

        Raises:
            MessageError: it is none, or of another protocol.
        """
        header, rest = _unpacked("Request", blob)
        kinds = {"node": str, "run": str, "settings": str, "stage": int, "attempt": int, "made": list, "steps": list}
        steps = _checked(header, kinds).pop("steps")
        header["made"] = tuple(header["made"])
        if len(header["made"]) != header["stage"] or any(type(attempt) is not int for attempt in header["made"]):
            raise MessageError("a request that does not say how its stages were made: node and server need one version")
        parts, at = [], 0
        for entry in steps:
            found = _checked(entry, {"number": int, "step": str, "round": int, "bytes": int})
            size = found.pop("bytes")
            parts.append(Part(message=rest[at : at + size], **found))
            at += size
        if at != len(rest):
            raise MessageError(f"a request of {at} bytes of messages holds {len(rest)}: it was cut off, send it again")
        return cls(parts=tuple(parts), **{name: header[name] for name in kinds if name != "steps"})


@dataclass(frozen=True)
class Reply:
    """What a node answers.

    done: number of the last step that it has done. refused: why it did not do the next one; "" if it did all. message:
    of the last step, empty where it gives none. facts: what the node says of itself, where it was asked who it is.
    """

    node: str
    run: str
    done: int
    refused: str = ""
    message: bytes = b""
    facts: Mapping[str, Any] | None = None

    def to_bytes(self) -> bytes:
        """The reply as one blob."""
        header = {"node": self.node, "run": self.run, "done": self.done, "refused": self.refused, "facts": self.facts}
        return _packed("Reply", header, [self.message])

    @classmethod
    def read(cls, blob: bytes) -> Self:
        """Parse a reply.

        Raises:
            MessageError: it is none, or of another protocol.
        """
        header, rest = _unpacked("Reply", blob)
        facts = header.pop("facts", None)
        found = _checked(header, {"node": str, "run": str, "done": int, "refused": str})
        if facts is not None and not isinstance(facts, dict):
            raise MessageError("a reply whose facts are no table: node and server need the same version")
        return cls(message=rest, facts=facts, **found)


def _packed(kind: str, header: Mapping[str, Any], messages: list[bytes]) -> bytes:
    text = json.dumps({"isogram": kind, "protocol": PROTOCOL, **header}, sort_keys=True).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *messages])


def _unpacked(kind: str, blob: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or length > min(MAX_HEADER, len(blob) - 8):
        raise MessageError(f"{len(blob)} bytes that are no whole {kind.lower()}: it was cut off, send it again")
    try:
        header = json.loads(blob[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise MessageError(f"a {kind.lower()} whose header is no JSON: send it again") from error
    if not isinstance(header, dict) or header.pop("isogram", None) != kind:
        raise MessageError(f"bytes that are no {kind.lower()} of isogram: node and server need the same version")
    if (protocol := header.pop("protocol", None)) != PROTOCOL:
        raise MessageError(
            f"protocol {protocol!r}, and this side speaks {PROTOCOL}: install the same version of isogram on both"
        )
    return header, blob[8 + length :]


def _checked(found: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """The entries, if they are all there, of these types, and no others; numbers are not negative."""
    wrong = not isinstance(found, dict) or found.keys() != kinds.keys()
    if wrong or any(type(found[n]) is not kind or (kind is int and found[n] < 0) for n, kind in kinds.items()):
        raise MessageError(f"a header that does not have {', '.join(kinds)}: node and server need the same version")
    return dict(found)
