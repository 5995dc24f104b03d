"""The engine without its processes: records, link, apps and grid; tests/deploy has the same with them."""

import json
import os
import threading
import time
import tomllib
from pathlib import Path

import pytest
from engines import echo, over
from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.cli.build import build_fab_from_disk

from isogram.engine import client_app as client
from isogram.engine import link, records
from isogram.engine.bundle import write_bundle
from isogram.engine.grid import InProcessGrid, run_in_process
from isogram.engine.link import FlowerLink
from isogram.engine.server_app import wait_for
from isogram.errors import ConfigError, DataError, MessageError, RunError
from isogram.federation.link import Lost

# Records.


@pytest.mark.parametrize("size", [0, 1, records.PIECE, 2 * records.PIECE + 1])
def test_bytes_survive_records(size):
    data = os.urandom(size)
    content = records.packed(data)
    assert len(content) == max(1, -(-size // records.PIECE))
    assert records.unpacked(content) == data
    assert records.unpacked(records.reason("because")) == "because"


def test_foreign_and_large_records_are_refused(monkeypatch):
    data = bytes(3 * records.PIECE)
    gap = records.packed(data)
    del gap["1"]
    number = records.packed(b"x")
    number["0"]["bytes"] = 3
    for content in (RecordDict(), gap, number):
        with pytest.raises(MessageError, match="not ours"):
            records.unpacked(content)
    content = records.packed(data)
    monkeypatch.setattr(records, "MAX_MESSAGE", 1000)
    for act in (lambda: records.packed(data), lambda: records.unpacked(content)):
        with pytest.raises(MessageError, match="12,582,912 bytes, the engine carries at most 1,000"):
            act()


# The link.


def test_every_node_gets_its_own_request():
    names = [f"site-{number}" for number in range(12)]
    grid = InProcessGrid({name: lambda request, name=name: name.encode() + request for name in names}, at_once=3)
    answers = over(grid).ask({name: name.encode() for name in reversed(names)}, 10)
    assert list(answers) == sorted(names)
    assert answers == {name: name.encode() * 2 for name in names}


def test_who_is_not_there_is_lost_and_the_others_answer():
    def refuse(request):
        raise DataError("/home/ward/patients.csv")

    grid = InProcessGrid({"a": echo, "b": echo, "c": refuse})
    node = {node.name: node.node_id for node in grid.get_nodes()}
    grid.down.add("b")
    asked = dict.fromkeys("abcd", b"12")
    assert FlowerLink(grid, node).ask(asked, 10) == {
        "a": b"21",
        "b": Lost(link.NODE_LOST),
        "c": Lost("the client process at its node failed (DataError): the log there says why"),
        "d": Lost(link.UNKNOWN),
    }
    assert over(grid).ask(asked, 10)["b"] == Lost(link.UNKNOWN)
    grid.down.clear()
    assert over(grid).ask({"b": b"12"}, 10) == {"b": b"21"}


def test_the_wait_is_bounded_and_late_answers_are_not_taken_for_others():
    release = threading.Event()

    def slow(request):
        if request == b"slow":
            release.wait(20)
        return request

    asks = over(InProcessGrid({"a": slow, "b": slow}, at_once=2))
    began = time.monotonic()
    answers = asks.ask({"a": b"slow", "b": b"quick"}, 0.5)
    assert time.monotonic() - began < 5
    assert answers == {"a": Lost("no answer within 0.5 s"), "b": b"quick"}
    release.set()
    assert asks.ask({"a": b"next", "b": b"next"}, 10) == {"a": b"next", "b": b"next"}
    assert asks.ask({"a": b"x"}, 0) == {"a": Lost("no answer within 0 s")}


def test_a_node_that_stalls_in_its_reply_holds_up_nobody():
    class Stalling(InProcessGrid):
        def pull_messages(self, message_ids):
            if message_ids[0] == f"{1:064x}":
                time.sleep(3)
            return super().pull_messages(message_ids)

    began = time.monotonic()
    answers = over(Stalling({"a": echo, "b": echo})).ask({"a": b"12", "b": b"12"}, 1)
    assert time.monotonic() - began < 2.5
    assert answers == {"a": Lost("no answer within 1 s"), "b": b"21"}


def test_a_server_that_does_not_say_who_is_there_holds_up_nobody():
    release = threading.Event()

    class Silent(InProcessGrid):
        def get_nodes(self):
            release.wait(20)
            return super().get_nodes()

    grid, began = Silent({"a": echo}), time.monotonic()
    try:
        assert over(grid).ask({"a": b"12", "b": b"12"}, 0.3) == dict.fromkeys("ab", Lost("no answer within 0.3 s"))
        wait_for(grid, ["a"], 0.3)
        assert time.monotonic() - began < 10
    finally:
        release.set()
    assert over(grid).ask({"a": b"12"}, 10) == {"a": b"21"}


def test_a_server_that_fails_once_is_asked_again():
    class Failing(InProcessGrid):
        failures = 2

        def pull_messages(self, message_ids):
            self.failures -= 1
            if self.failures >= 0:
                raise OSError("database is locked")
            return super().pull_messages(message_ids)

    grid = Failing({"a": echo})
    assert over(grid).ask({"a": b"12"}, 10) == {"a": b"21"}
    grid.failures = 1000
    assert over(grid).ask({"a": b"12"}, 0.5) == {"a": Lost("no answer within 0.5 s")}


@pytest.mark.parametrize(("deaths", "answer"), [(1, b"21"), (2, Lost(link.PROCESS_DIED))])
def test_a_client_process_that_dies_is_asked_once_more(deaths, answer):
    class Dying(InProcessGrid):
        died = 0

        def _reply(self, message):
            if self.died < deaths:
                self.died += 1
                return Message(Error(8), reply_to=message)
            return super()._reply(message)

    grid = Dying({"a": echo})
    assert over(grid).ask({"a": b"12"}, 10) == {"a": answer}
    assert grid.died == deaths


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ([None, "x"], "did not take the request for this node"),
        ([], "did not take the request for this node"),
        (OSError, "did not take the request (OSError)"),
    ],
)
def test_a_server_that_takes_no_request(sent, why):
    class Refusing(InProcessGrid):
        def push_messages(self, messages):
            if sent is OSError:
                raise OSError("/var/secret")
            return sent[:1]

    answer = over(Refusing({"a": echo})).ask({"a": b""}, 5)["a"]
    assert isinstance(answer, Lost)
    assert why in answer.why and "secret" not in answer.why


def test_messages_of_another_run_are_refused_at_both_ends():
    grid = InProcessGrid({"a": echo})

    class Elsewhere(InProcessGrid):
        def _reply(self, message):
            reply = super()._reply(message)
            reply.metadata.__dict__["_run_id"] = 77
            return reply

    assert over(Elsewhere({"a": echo})).ask({"a": b""}, 10) == {"a": Lost("it answered for another run")}
    message = Message(records.packed(b"x"), 2, MessageType.QUERY, ttl=10)
    app = client.client_app(lambda context, request, wait: pytest.fail("asked"))
    reply = app(message, Context(grid.run.run_id + 1, 2, {}, RecordDict(), {}))
    assert records.unpacked(reply.content) == "its node refused a request of another run"


def test_large_requests_and_replies_are_lost_and_the_others_come(monkeypatch):
    asked = []
    grid = InProcessGrid({"a": asked.append, "b": lambda request: bytes(2000), "c": echo})
    monkeypatch.setattr(records, "MAX_MESSAGE", 1000)
    large = "a message has {:,} bytes, the engine carries at most 1,000"
    assert over(grid).ask({"c": b"12", "b": b"", "a": bytes(1001)}, 5) == {
        "a": Lost("it was not asked: " + large.format(1001)),
        "b": Lost(large.format(2000)),
        "c": b"21",
    }
    assert asked == []


# A run.


def coordinate(asks, config):
    if config.get("fails"):
        raise DataError("anchors.csv: row 3 is empty", "anchors.csv: row 4 is empty")
    answers = asks.ask(dict.fromkeys(json.loads(config["nodes"]), b"12"), 10)
    Path(config["result"]).write_text(repr(answers))


def bundle(folder, **changed):
    arguments = {
        "entry": f"{__name__}:coordinate",
        "nodes": ["a", "b"],
        "patience": 0.5,
        "outcome": folder / "outcome.json",
        "settings": {"result": str(folder / "result")},
    }
    return write_bundle(folder / "bundle", **(arguments | changed))


def config_of(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


def test_a_run_in_process(tmp_path):
    run_in_process(InProcessGrid({"a": echo, "b": echo}), config_of(bundle(tmp_path)))
    assert (tmp_path / "result").read_text() == repr({"a": b"21", "b": b"21"})
    assert json.loads((tmp_path / "outcome.json").read_text()) == {"problems": []}


@pytest.mark.parametrize(
    ("changed", "error", "problems"),
    [
        ({"entry": "nowhere:f"}, ConfigError, "cannot be loaded: No module named 'nowhere'"),
        ({"entry": "json:f"}, ConfigError, "cannot be loaded"),
        ({"entry": "json"}, ConfigError, "cannot be loaded"),
        ({"entry": "json:__name__"}, ConfigError, "not a function"),
        ({"settings": {"fails": True}}, DataError, "anchors.csv: row 4"),
        ({"settings": {}}, KeyError, "KeyError: 'result'"),
    ],
)
def test_a_run_leaves_word_of_what_went_wrong(tmp_path, changed, error, problems):
    config = config_of(bundle(tmp_path, **changed))
    with pytest.raises(error):
        run_in_process(InProcessGrid({"a": echo, "b": echo}), config)
    assert problems in "\n".join(json.loads((tmp_path / "outcome.json").read_text())["problems"])


def test_a_name_that_two_nodes_have_is_nobodys():
    class Twins(InProcessGrid):
        def get_nodes(self):
            nodes = list(super().get_nodes())
            nodes[1].name = "a"
            return nodes

    with pytest.raises(RunError, match="two nodes run under the name a"):
        wait_for(Twins({"a": echo, "b": echo}), ["a"], 1)


def test_nodes_that_do_not_come_are_not_waited_for_without_end():
    began = time.monotonic()
    wait_for(InProcessGrid({"a": echo, "b": echo}), ["a", "x"], 0.6)
    assert 0.6 < time.monotonic() - began < 5


def test_nodes_that_come_late_are_waited_for():
    grid = InProcessGrid({"a": echo, "b": echo})
    grid.down.add("b")
    timer = threading.Timer(0.7, grid.down.clear)
    timer.start()
    wait_for(grid, ["a", "b"], 10)
    timer.join()
    assert {node.name for node in grid.get_nodes()} == {"a", "b"}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # the engine's own
def test_the_engine_takes_the_bundle_which_holds_no_code(tmp_path):
    folder = bundle(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["pyproject.toml"]
    assert len(build_fab_from_disk(folder)) < 10_000
    for changed in ({"nodes": []}, {"nodes": ["a", "a"]}, {"settings": {"entry": "x"}}):
        with pytest.raises(ConfigError):
            bundle(tmp_path, **changed)


def test_the_grid_waits_for_what_comes_back_and_no_longer_than_it_is_told():
    slow = threading.Event()
    grid = InProcessGrid({"a": echo, "b": lambda request: (slow.wait(10), request)[1]}, at_once=2)
    ids = {node.name: node.node_id for node in grid.get_nodes()}
    sent = [Message(records.packed(b"12"), ids[name], MessageType.QUERY) for name in ("a", "b")]
    (only,) = grid.send_and_receive(sent, timeout=1)
    assert records.unpacked(only.content) == b"21"
    slow.set()
    again = [Message(records.packed(b"12"), ids[name], MessageType.QUERY) for name in ("a", "b")]
    assert len(list(grid.send_and_receive(again))) == 2
