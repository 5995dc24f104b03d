"""What the tests' sites and coordinator do: a worker that answers its request backwards, and exchanges by order.

Run as a program it is a site's worker: `python echo.py SOCKET JOURNAL`.
"""

import json
import os
import sys
import time
from pathlib import Path


def respond(request: bytes, journal: Path) -> bytes:
    """A request is one line of JSON and a payload; what is done is noted in the journal."""
    order, _, payload = request.partition(b"\n")
    words = json.loads(order)
    with journal.open("a") as file:
        file.write(f"{words.get('round')}\n")
    time.sleep(words.get("sleep", 0))
    if "size" in words:
        return os.urandom(words["size"])
    return payload[::-1]


def coordinate(link, config):
    """Carries out orders, files of JSON that appear in a folder, until one says to end; an answer beside each."""
    folder = Path(config["orders"])
    number = 0
    while True:
        path = folder / f"{number}.json"
        if not path.exists():
            time.sleep(0.02)
            continue
        order = json.loads(path.read_text())
        if order.get("end"):
            return
        payload = os.urandom(order.get("size", 100))
        requests = {
            name: json.dumps({"round": number, **words}).encode() + b"\n" + payload
            for name, words in order["nodes"].items()
        }
        began = time.perf_counter()
        answers = link.ask(requests, order["wait"])
        seconds = time.perf_counter() - began
        told = {
            name: ("echo" if answer == payload[::-1] else f"{len(answer)} bytes")
            if isinstance(answer, bytes)
            else {"lost": answer.why}
            for name, answer in answers.items()
        }
        temporary = folder / f"{number}.tmp"
        temporary.write_text(json.dumps({"seconds": seconds, "answers": told}))
        temporary.rename(folder / f"{number}.answer")
        number += 1


if __name__ == "__main__":
    from isogram.engine.worker import serve

    serve(lambda request: respond(request, Path(sys.argv[2])), Path(sys.argv[1]))
