"""The engine without its processes: a grid in this process that drives the real server app and client app."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from queue import SimpleQueue
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from isogram.engine.client_app import client_app
from isogram.engine.server_app import app as server_app

SERVER = 1
"""The engine's number of its server; its own errors come from there."""

RUN = 1

RAISED, NODE_LOST = 2, 5


class InProcessGrid(Grid):
    """Nodes are functions; every message is copied as a whole, so that ends share no memory.

    `down` holds names of nodes that do not run: asked, they give the engine's own error.
    """

    def __init__(self, sites: Mapping[str, Callable[[bytes], bytes]], at_once: int = 1) -> None:
        """What answers at each node, by its name, and how many nodes work at the same time."""
        self.down: set[str] = set()
        self._names = dict(enumerate(sorted(sites), start=2))
        self._app = client_app(lambda context, request, _: sites[str(context.node_config["name"])](request))
        self._run = Run.create_empty(RUN)
        self._lock = threading.Lock()
        self._sent = 0
        self._replies: dict[str, Message] = {}
        self._work: SimpleQueue[Message] = SimpleQueue()
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER, SERVER
        for _ in range(at_once):
            threading.Thread(target=self._work_on, daemon=True).start()

    @property
    def run(self) -> Run:
        """The run all messages belong to."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Another run."""
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message; `Message` itself does it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Numbers of the nodes that run."""
        return [number for number, name in self._names.items() if name not in self.down]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that run, by number and name."""
        return [NodeInfo(node_id=number, name=self._names[number], status="online") for number in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages to their nodes; an id of each, in order."""
        ids = []
        for message in messages:
            message = deepcopy(message)
            with self._lock:
                self._sent += 1
                identity = f"{self._sent:064x}"
            message.metadata.__dict__["_message_id"] = identity
            self._work.put(message)
            ids.append(identity)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that are there and were not taken yet."""
        with self._lock:
            return [self._replies.pop(identity) for identity in message_ids if identity in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """What comes back to these messages, all of it or what is there after `timeout` seconds."""
        until = time.monotonic() + (float("inf") if timeout is None else timeout)
        ids, replies = list(self.push_messages(messages)), list[Message]()
        while len(replies) < len(ids) and time.monotonic() < until:
            replies += self.pull_messages(ids)
            time.sleep(0.01)
        return replies

    def _work_on(self) -> None:
        while True:
            message = self._work.get()
            reply = deepcopy(self._reply(message))
            with self._lock:
                self._replies[message.metadata.message_id] = reply

    def _reply(self, message: Message) -> Message:
        number = message.metadata.dst_node_id
        name = self._names[number]
        if name in self.down:
            reply = Message(Error(NODE_LOST), reply_to=message)
            reply.metadata.__dict__["_src_node_id"] = SERVER
            return reply
        context = Context(self._run.run_id, number, {"name": name}, RecordDict(), {})
        try:
            return self._app(message, context)
        except Exception as error:
            return Message(Error(RAISED, str(error)), reply_to=message)


def run_in_process(grid: InProcessGrid, config: Mapping[str, Any]) -> None:
    """Drive the server app as the engine would, with this run configuration; see `isogram.engine.bundle`."""
    server_app(grid, Context(RUN, SERVER, {}, RecordDict(), dict(config)))
