"""`Link` over a grid of the engine: one message per node, bounded waits, and the engine's errors in words."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from isogram.engine.records import packed, unpacked
from isogram.errors import MessageError
from isogram.federation.link import Lost

LATE = "no answer within {:g} s"
UNKNOWN = "it is not online: the server knows no running node under this name"
NODE_LOST = "its node stopped reporting: the machine, its network or the node's process is down"
PROCESS_DIED = "the engine's client process at its node died, twice"

_NODE_LOST, _PROCESS_DIED = 5, 8
_WORDS = {
    1: "the engine at its node could not load its part: the log there says why",
    2: "the engine's client process at its node failed: the log there says why",
    3: "its answer came too late, or not as a whole",
    4: "its answer came too late, or not as a whole",
    _NODE_LOST: NODE_LOST,
    7: "the engine at its node refused the app of this server",
    _PROCESS_DIED: PROCESS_DIED,
}

T = TypeVar("T")

log = logging.getLogger(__name__)

Nodes = Mapping[str, int] | Callable[[], Mapping[str, int]]


class FlowerLink:
    """Asks named nodes through a grid.

    A node whose client process dies is asked once more in the time that is left: its worker remembers the reply to a
    request, so no work is done twice.
    """

    def __init__(self, grid: Grid, nodes: Nodes) -> None:
        """The grid, and the engine's id of each name: a table, or what is asked for one before each exchange."""
        self._grid = grid
        self._nodes = nodes
        self._pushing = threading.Lock()

    def ask(
        self, requests: Mapping[str, bytes], wait: float, arrived: Callable[[str], None] = lambda name: None
    ) -> dict[str, bytes | Lost]:
        """Send each named node its request at once; return, in order of names, what came back within `wait` seconds.

        `arrived` is told each node that has answered. A request that is larger than the engine carries is not sent.
        """
        until = time.monotonic() + wait
        contents, large = dict[str, RecordDict](), dict[str, bytes | Lost]()
        for name in sorted(requests):
            try:
                contents[name] = packed(requests[name])
            except MessageError as error:
                large[name] = Lost(f"it was not asked: {error}")
        late: dict[str, bytes | Lost] = dict.fromkeys(sorted(requests), Lost(LATE.format(wait)))
        answers = late | large
        try:
            ids = bounded(self._nodes, wait) if callable(self._nodes) else self._nodes
        except TimeoutError:
            return answers
        answers |= {name: Lost(UNKNOWN) for name in contents if name not in ids}
        left = until - time.monotonic()
        messages = {
            name: Message(content, ids[name], MessageType.QUERY, ttl=left)
            for name, content in contents.items()
            if name in ids and left > 0
        }
        came: SimpleQueue[tuple[str, bytes | Lost]] = SimpleQueue()
        # Neither a push nor a pull of the engine is bounded, and a pull stays with a node that stalls in the middle
        # of its reply: each waits in a thread of its own, and whoever is late speaks to nobody.
        _in_background(self._send, messages, until, came)
        for _ in messages:
            try:
                name, answer = came.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                break
            answers[name] = answer
            if isinstance(answer, bytes):
                arrived(name)
        return answers

    def _send(
        self, messages: Mapping[str, Message], until: float, came: "SimpleQueue[tuple[str, bytes | Lost]]"
    ) -> None:
        try:
            sent = self._push(list(messages.values()))
        except BaseException as error:  # that a run was stopped is no Exception in this engine
            sent = []
            why = f"the engine's server did not take the request ({type(error).__name__})"
        else:
            why = "the engine's server did not take the request for this node"
        for number, (name, message) in enumerate(messages.items()):
            identity = sent[number] if number < len(sent) else None
            if identity:
                _in_background(self._collect, name, message, identity, until, came)
            else:
                came.put((name, Lost(why)))

    def _push(self, messages: list[Message]) -> list[str]:
        with self._pushing:
            return list(self._grid.push_messages(messages))

    def _collect(
        self, name: str, message: Message, identity: str, until: float, came: "SimpleQueue[tuple[str, bytes | Lost]]"
    ) -> None:
        try:
            answer = self._answer(identity, until)
            if answer == Lost(PROCESS_DIED) and (left := until - time.monotonic()) > 0:
                again = Message(message.content, message.metadata.dst_node_id, MessageType.QUERY, ttl=left)
                answer = self._answer(self._push([again])[0], until)
        except BaseException as error:
            answer = Lost(f"the engine's server did not hand over its answer ({type(error).__name__})")
        if answer is not None:
            came.put((name, answer))

    def _answer(self, identity: str, until: float) -> bytes | Lost | None:
        """What came back to one message; None when the time is over."""
        began = time.monotonic()
        failed: Exception | None = None
        while (now := time.monotonic()) < until:
            try:
                replies = list(self._grid.pull_messages([identity]))
            except Exception as error:  # a busy server: it may well answer the next time
                replies, failed = [], error
            for reply in replies:
                # Errors of the engine come from a node of its own, so that only this tells whose answer it is.
                if reply.metadata.reply_to_message_id == identity:
                    return self._read(reply)
            time.sleep(max(0.0, min(until - now, max(0.1, min(2.0, (now - began) / 50)))))
        if failed is not None:
            log.warning("the engine's server failed while an answer was waited for: %s", failed)
        return None

    def _read(self, reply: Message) -> bytes | Lost:
        if reply.metadata.run_id != self._grid.run.run_id:
            return Lost("it answered for another run")
        if reply.has_error():
            code = reply.error.code
            return Lost(_WORDS.get(code, f"the engine reports error {code}"))
        try:
            answer = unpacked(reply.content)
        except MessageError as error:
            return Lost(str(error))
        return Lost(answer) if isinstance(answer, str) else answer


def bounded(call: Callable[[], T], seconds: float) -> T:
    """What a call of the engine gives, which may wait without end: it runs in a thread of its own.

    Raises:
        TimeoutError: it has given nothing in these seconds; what it gives later is nobody's.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    _in_background(run)
    return future.result(max(0.0, seconds))


def _in_background(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()
