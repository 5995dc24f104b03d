"""What the engine runs at a site, in a new process for every message: the request goes to the site's warm worker.

Imports next to nothing: the process lives for one message, and its start is paid every time.
"""

import logging
import time
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from isogram.engine.frames import AwayError, WorkerError, call
from isogram.engine.records import packed, reason, unpacked
from isogram.errors import MessageError

SOCKET = "socket"
"""The key of the node's configuration: where its worker listens."""

RETURN = 120.0
"""Seconds within which a worker has to be there: those that a large trunk takes to load."""

Ask = Callable[[Context, bytes, float], bytes]
"""The node's context, a request, seconds to wait -> the reply; raises WorkerError or MessageError."""


log = logging.getLogger(__name__)


def client_app(ask: Ask) -> ClientApp:
    """An app that answers requests by `ask`.

    Whatever fails comes back as a reason in words of ours; no text of another exception leaves the site, as it might
    hold a path or a value.
    """
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        try:
            if message.metadata.run_id != context.run_id:
                raise MessageError("its node refused a request of another run")
            request = unpacked(message.content)
            if isinstance(request, str):
                raise MessageError("its node was sent a reason instead of a request")
            content = packed(ask(context, request, message.metadata.ttl))
        except (MessageError, WorkerError) as error:
            content = reason(str(error))
        except Exception as error:
            log.exception("no answer to a request")
            content = reason(f"the client process at its node failed ({type(error).__name__}): the log there says why")
        return Message(content, reply_to=message)

    return app


def ask_worker(context: Context, request: bytes, wait: float) -> bytes:
    """The worker whose socket the node's configuration names."""
    path = context.node_config.get(SOCKET)
    if not isinstance(path, str):
        raise WorkerError("its node was started without the address of the site's worker")
    until = time.monotonic() + wait
    back = time.monotonic() + min(wait - 1, RETURN)
    while True:
        try:
            return call(path, request, until - time.monotonic())
        except AwayError:  # it starts, or was killed and is started again; what it had done whole it does not do twice
            if time.monotonic() > back:
                raise
            time.sleep(0.5)


app = client_app(ask_worker)
