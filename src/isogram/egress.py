"""The one door out of a node: what may be sent, in which shape, written down, and asked for where that is wished.

A node makes messages in one place (`local.node.AlignedNode._up`), and each passes the node's `Gate` before anybody else
has it. A field that is not on the list of `releases`, or that the settings do not need, stays at home. A server still
checks what it gets: it has no reason to believe a node.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from torch import Tensor

from isogram.errors import EgressError, MessageError
from isogram.messages import Up
from isogram.private_rows import PrivateRows
from isogram.releases import RELEASES, WORDS, Case, Release, kind_in
from isogram.validation import KINDS, Expected
from isogram.wire import layout


@dataclass(frozen=True)
class Line:
    """One array, or number of a header, that left: its bytes on the wire and their sha256.

    masked: made with fresh keys, so that bytes and hash are others in each run. A sum over one node alone has no mask.
    """

    node: str
    round: int
    kind: str
    field: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    sha256: str
    masked: bool


@dataclass(frozen=True)
class Question:
    """What a person is asked before a node sends the first message of a kind."""

    node: str
    kind: str
    words: str
    lines: tuple[Line, ...]


Ask = Callable[[Question], Literal["yes", "no", "all"]]
"""Whether it may leave; all: this kind may at every node."""


@dataclass
class Oversight:
    """What the gates of one run have in common.

    more: kinds that a method sends beyond what its settings say. log: gets a message's lines before it leaves; if it
    raises, the message stays. lines: without a log, what left, in order. asked: (node, kind) that a person has let
    through, or (kind,) at all nodes.
    """

    ask: Ask | None = None
    more: Collection[str] = ()
    log: Callable[[Sequence[Line]], None] | None = None
    lines: list[Line] = field(default_factory=list)
    asked: set[tuple[str, ...]] = field(default_factory=set)

    def write_down(self, lines: Sequence[Line]) -> None:
        """That these are about to leave."""
        (self.log or self.lines.extend)(lines)


class Gate:
    """A node's own: lets out what is on its list, in its shape, and writes it down.

    Raises:
        EgressError: `egress.allow` lacks what the settings need; names every such field.
    """

    def __init__(self, node: str, case: Case, private: PrivateRows, oversight: Oversight | None = None) -> None:
        self.node, self.private, self.oversight = node, private, oversight or Oversight()
        allow = case.config.egress.allow
        alone = case.config.average.across == "alone"
        self.stays = frozenset({"key", "counts", "sums", "update"} if alone else ())
        """Kinds whose messages a node makes for itself; they reach nobody."""
        needed = [r for r in RELEASES if r.needed(case) or r.kind in self.oversight.more or r.kind in self.stays]
        kept = [r for r in needed if allow and r.kind not in self.stays and not {r.kind, r.field} & set(allow)]
        if kept:
            raise EgressError(*(self._lacking(release) for release in kept))
        self.allowed = {(release.kind, release.field) for release in needed}

    def _lacking(self, release: Release) -> str:
        both = " or ".join(repr(name) for name in dict.fromkeys((release.kind, release.field)))
        return (
            f"node {self.node!r} has to send {release.field!r} in {release.kind!r} messages ({release.when}), and "
            f"egress.allow lacks it: add {both}, or {release.remedy}"
        )

    def admit(self, kind: str, round: int, fields: Mapping[str, object]) -> None:
        """Whether these fields may stand in a message, before there is one.

        Raises:
            EgressError: one of them may not, or is no tensor, no mapping of tensors, and no number where there is one.
        """
        name = kind_in(kind, round)
        for of, value in sorted(fields.items()):
            if (name, of) not in self.allowed:
                known = [release for release in RELEASES if (release.kind, release.field) == (name, of)]
                raise EgressError(
                    f"node {self.node!r} does not send {of!r} in {name!r} messages: "
                    + (
                        f"they have it where {known[0].when}, which is not so in this run"
                        if known
                        else "they have none"
                    )
                    + "; send what the methods `send_*` return, or change the settings of server and nodes"
                )
            parts = list(value.values()) if isinstance(value, Mapping) else [value]
            number = of in KINDS[Up][kind].numbers
            if not all(isinstance(part, int if number else Tensor) for part in parts):
                raise EgressError(
                    f"node {self.node!r} sends tensors alone, and {of!r} of its {name!r} message holds something else; "
                    "send what the methods `send_*` return"
                )

    def let_out(
        self, kind: str, up: Up, expected: Expected, made_of_rows: Callable[[Up], bool], *, masked: bool = False
    ) -> Up:
        """The message as the wire gives it, once it is known to be what it should be and is written down.

        Args:
            kind: of `validation.KINDS`.
            up: the message.
            expected: what the server, too, expects of it, and all sizes that the node knows.
            made_of_rows: whether a message of the right sizes is made of private rows all the same.
            masked: whether keys that are new in each run hide its values.

        Raises:
            EgressError: an array of another shape or type, or with a private row in it; or a person says no.
            MessageError: values that a receiver refuses, such as NaN.
        """
        blob = up.to_bytes()
        try:
            wrong = expected.wrong_layout(Up, layout(blob))
        except MessageError as error:
            wrong = str(error)
        if wrong:
            problem = wrong.rpartition(": ")[0] or wrong
            raise EgressError(
                f"node {self.node!r} kept its {kind!r} message of round {up.round} to itself ({problem}): only arrays "
                "of these public sizes leave a node; send what the methods `send_*` return"
            )
        sent = expected.read(Up, blob)
        for name, value in sent.arrays():
            if value.is_floating_point():
                self.refuse_rows(name, value)
        if made_of_rows(sent):
            raise self.shows_rows(kind)
        if kind not in self.stays:
            lines = tuple(_lines(sent, kind_in(kind, up.round), masked))
            self._ask(lines)
            self.oversight.write_down(lines)
        return sent

    def refuse_rows(self, name: str, value: Tensor) -> None:
        """Stop if a private row stands in an array as it is.

        Raises:
            EgressError: it does.
        """
        if self.private.are_in(value):
            raise self.shows_rows(name)

    def shows_rows(self, name: str) -> EgressError:
        """What is said of an array that shows private rows."""
        return EgressError(
            f"node {self.node!r} kept its message to itself: {name!r} holds private rows in the place of public items; "
            "send what the methods `send_*` return, of public items"
        )

    def _ask(self, lines: tuple[Line, ...]) -> None:
        kind, asked = lines[0].kind if lines else "", self.oversight.asked
        if self.oversight.ask is None or not lines or {(self.node, kind), (kind,)} & asked:
            return
        words = WORDS[kind]
        if kind in ("counts", "sums"):
            hidden = any(line.masked for line in lines)
            words += ", masked: only the total over nodes shows" if hidden else ", NOT masked: no other node has labels"
        answer = self.oversight.ask(Question(self.node, kind, words, lines))
        if answer == "no":
            raise EgressError(
                f"node {self.node!r} was not allowed to send its {kind!r} message of round {lines[0].round}, and sent "
                "nothing of it; go on by --resume, or leave it out by other settings (docs/privacy.md)"
            )
        asked.add((kind,) if answer == "all" else (self.node, kind))


def _lines(sent: Up, kind: str, masked: bool) -> Iterator[Line]:
    """Of a message as the wire gives it."""

    def line(name: str, shape: tuple[int, ...], dtype: str, data: bytes, masked: bool) -> Line:
        return Line(
            sent.node, sent.round, kind, name, shape, dtype, len(data), hashlib.sha256(data).hexdigest(), masked
        )

    for name, value in sent.arrays():
        hidden = masked and any(r.masked for r in RELEASES if (r.kind, r.field) == (kind, name))
        yield line(name, tuple(value.shape), str(value.dtype).removeprefix("torch."), value.numpy().tobytes(), hidden)
    for entry in fields(sent):
        if entry.type is int and entry.name != "round" and (number := getattr(sent, entry.name)):
            yield line(entry.name, (), "text", str(number).encode(), False)
