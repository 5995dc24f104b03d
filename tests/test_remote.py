"""Nodes behind bytes: the same federation to the bit; nodes that are lost, come back, or start again."""

from dataclasses import replace

import pytest
import torch
from loops import away, responders
from planted import planted

from isogram import federation
from isogram.checkpoint import alignment_state, restore_alignment, restore_round, round_state
from isogram.config import Config, ModelConfig, TrainConfig
from isogram.envelope import Reply, Request
from isogram.errors import FederationError
from isogram.federation.link import Lost
from isogram.federation.membership import Quorum
from isogram.local.memory import node_state

DATA = planted()
CONFIG = Config(
    data="machines", anchors=40, model=ModelConfig(width=48, layers=1), train=TrainConfig(rounds=3, steps=2)
)


def with_(config=CONFIG, **groups):
    """Settings changed, a dictionary for each group."""
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in groups.items()}
    )


def same(one, other):
    """Server-side states equal to the bit."""
    own = {name: value for name, value in other.items() if name in one}
    assert one.keys() == own.keys() and one
    for name, value in one.items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(own[name])), name


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        with_(average={"head": "laplace", "rule": "parameter"}),
        with_(average={"across": "attention", "head_within": True}, train={"frame_update": 0.5}),
        with_(model={"adapter": "geodora"}, align={"robust": True}),
        with_(train={"refresh": 2}),
        with_(train={"refresh": 2, "refresh_basis": "gradient"}),
        with_(model={"adapter": "rolora"}),
    ],
    ids=["default", "laplace", "attention", "geodora", "refresh", "gradient", "rolora"],
)
def test_nodes_behind_bytes_give_the_same_bits(tmp_path, config):
    here = federation.align(DATA, config)
    there, _ = away(DATA, config, tmp_path)
    there = federation.one_shot(there)
    same(alignment_state(there), alignment_state(here))
    here, there = federation.train(here), federation.train(there)
    same(round_state(there), round_state(here))
    assert there.refused == here.refused == ()


def trained(folder, config=CONFIG, *, data=DATA, quorum=None, before=lambda number, link: None, **more):
    """The federation after its rounds; `before` is called before each, with its number, and the link."""
    fed, link = away(data, config, folder, quorum=quorum, **more)
    before(0, link)
    fed = federation.start_training(federation.one_shot(fed))
    while fed.round < config.train.rounds:
        before(fed.round + 1, link)
        fed = federation.train_round(fed)
    return fed, link


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The federation that nothing happens to."""
    return trained(tmp_path_factory.mktemp("whole"))[0]


def test_a_round_goes_on_without_a_lost_node_which_comes_back(tmp_path, whole):
    def lose(number, link):
        link.fail = {"a-2": number == 2}

    fed, link = trained(tmp_path, quorum=Quorum(3), before=lose)
    assert len(fed.refused) == 1 and "node 'a-2' did not answer: it was unplugged" in fed.refused[0]
    assert not torch.equal(fed.adapters["out.weight"], whole.adapters["out.weight"])
    fed.away[1].finish(fed.members, lambda member: fed.down(member, fed.last_round))
    models = [link.responders[member.name]._node.shared.state() for member in fed.members]
    for name, value in models[0].items():
        assert all(torch.equal(value, other[name]) for other in models) and torch.equal(value, fed.adapters[name])


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (CONFIG, ["average"]),
        (with_(model={"adapter": "rolora"}), ["average"] * 2),
        (with_(train={"refresh": 2}), ["average", "bases"] * 2 + ["average"]),
        (with_(average={"secure": True}), ["average"]),
    ],
    ids=["default", "rolora", "refresh", "secure"],
)
def test_a_node_away_for_long_is_told_what_still_counts_and_is_where_the_others_are(tmp_path, config, kept):
    """Of averages the last one of each adapter, up to where they were merged; nothing else of the rounds it missed."""
    config = with_(config, train={"rounds": 6})

    def lose(number, link):
        link.fail = {"a-2": 99 if 1 <= number < 6 else 0}

    fed, link = trained(tmp_path, config, quorum=Quorum(2), before=lose)
    (back,) = [
        request
        for request in (Request.read(blob) for name, blob in link.asked if name == "a-2")
        if request.stage == 6 and request.parts[0].round < 7
    ]
    asked = ["trained", "pair"] if config.average.secure else ["round"]
    assert [part.step for part in back.parts] == ["classes", *kept, *asked]
    fed.away[1].finish(fed.members, lambda member: fed.down(member, fed.last_round))
    for member in fed.members:
        model = link.responders[member.name]._node.shared.state()
        assert all(torch.equal(value, fed.adapters[name]) for name, value in model.items())


def test_too_few_answers_stop_the_run_and_say_who_is_lost(tmp_path):
    def lose(number, link):
        link.fail = {"b": 1, "c": 1} if number == 2 else {}

    with pytest.raises(FederationError, match="2 of 4 nodes answered, and min_nodes is 3"):
        trained(tmp_path, quorum=Quorum(3), before=lose)
    with pytest.raises(FederationError, match="0 of 1 nodes of 'b' answered, and min_per_modality is 1"):
        trained(tmp_path / "b", quorum=Quorum(1), before=lose)


@pytest.mark.parametrize("head", ["anchors", "laplace"])
def test_a_node_started_again_before_any_round_gives_the_same_bits(tmp_path, head):
    config = with_(average={"head": head})

    def restart(number, link):
        link.responders = responders(DATA, config, tmp_path)

    same(round_state(trained(tmp_path, config, before=restart)[0]), round_state(trained(tmp_path / "x", config)[0]))


def test_a_request_again_gives_the_same_answer_and_is_not_done_twice(tmp_path, whole):
    link = None

    def twice(number, found):
        nonlocal link
        link = found
        for name, responder in link.responders.items():
            link.responders[name] = lambda blob, answer=responder: (answer(blob), answer(blob))[1]

    fed, _ = trained(tmp_path, before=lambda number, link: twice(number, link) if not number else None)
    same(round_state(fed), round_state(whole))


def test_a_node_killed_before_it_could_answer_answers_the_same(tmp_path, whole):
    """The work was done, the answer was not sent: another process gives it from the disk."""

    def kill(number, link):
        for name in link.responders if number == 2 else ():
            answer = link.responders[name]
            link.responders[name] = lambda blob, name=name, answer=answer: (
                answer(blob),
                responders(DATA, CONFIG, tmp_path)[name](blob),
            )[1]

    fed, _ = trained(tmp_path, before=kill)
    same(round_state(fed), round_state(whole))


def test_an_error_in_the_middle_of_a_round_leaves_nothing_of_it(tmp_path, monkeypatch):
    """It was not foreseen, and came when the node had begun to train; then it is as one that missed the round."""
    usual, steps = torch.optim.AdamW.step, []

    def step(optimiser, *arguments):
        steps.append(optimiser)
        if len(steps) == 2:
            raise RuntimeError("CUDA out of memory")
        return usual(optimiser, *arguments)

    def fail(number, link):
        answer = link.responders["b"]

        def failing(blob):
            link.responders["b"] = answer
            with monkeypatch.context() as patched:
                patched.setattr(torch.optim.AdamW, "step", step)
                try:
                    return answer(blob)
                except RuntimeError as error:
                    return Lost(str(error))

        if number == 2:
            link.responders["b"] = failing

    def lose(number, link):
        link.fail = {"b": number == 2}

    fed, link = trained(tmp_path / "one", quorum=Quorum(3, 0), before=fail)
    assert len(steps) == 2 and "CUDA out of memory" in fed.refused[0]
    other, missed = trained(tmp_path / "other", quorum=Quorum(3, 0), before=lose)
    same(round_state(fed), round_state(other))
    same(*(node_state(found.responders["b"]._node) for found in (link, missed)))


def test_the_sum_begins_again_without_a_node_that_lost_its_key(tmp_path):
    data, config, lost = planted(labelled="ab"), with_(average={"head": "means"}, train={"rounds": 1}), []

    def forget(number, link):
        answer = link.responders["a-2"]

        def without_key(blob):
            if b'"counts"' in blob and not lost:
                lost.append(True)
                link.responders["a-2"] = answer
                return responders(data, config, tmp_path)["a-2"](blob)
            return answer(blob)

        if not number:
            link.responders["a-2"] = without_key

    fed, _ = trained(tmp_path, config, data=data, quorum=Quorum(1), before=forget)
    assert lost and fed.head is not None
    assert torch.equal(fed.head.isnan().any(1), torch.tensor([False] * 3))


def test_a_server_started_again_goes_on_to_the_same_bits(tmp_path, whole):
    """It was killed in round 3, which some nodes had done."""
    fed, link = away(DATA, CONFIG, tmp_path)
    fed = aligned = federation.one_shot(fed)
    fed = federation.start_training(fed)
    for _ in range(2):
        fed = federation.train_round(fed)
    remote = fed.away[1]
    kept, queue, numbers = round_state(fed), remote.state(), dict(remote.number)
    start = alignment_state(aligned)
    link.fail = {"b": 1}
    with pytest.raises(FederationError):
        federation.train_round(fed)
    again, _ = away(DATA, CONFIG, tmp_path, link=link)
    again.away[1].restore(queue, numbers, attempt=1)
    again = restore_alignment(again, start)
    position = {"round": 2, "history": fed.history, "refused": []}
    again = federation.train_round(restore_round(again, kept, position))
    same(round_state(again), round_state(whole))
    old = [blob for name, blob in link.asked if name == "b"][-3]
    assert b"started again: an old request" in link.responders["b"](old)


def test_an_alignment_broken_off_begins_again(tmp_path, whole):
    fed, link = away(DATA, CONFIG, tmp_path)
    link.fail = {"c": 1}
    with pytest.raises(FederationError):
        federation.one_shot(fed)
    again, _ = away(DATA, CONFIG, tmp_path, link=link, attempt=1)
    same(round_state(federation.train(federation.one_shot(again))), round_state(whole))


def test_what_a_node_says_of_an_error_of_its_own_names_no_file(tmp_path, caplog):
    fed, link = away(DATA, CONFIG, tmp_path / "ward-7", quorum=Quorum(1, 0))
    lines = []
    fed.away[1].told = lambda what, node, line: lines.append(line) if what == "lost" else None
    (tmp_path / "ward-7").mkdir()
    (tmp_path / "ward-7" / "b").write_text("a file where a folder should be")
    aligned = federation.one_shot(fed)
    assert set(lines) == {"node 'b' refused: could not (StorageError): the log there says why"}
    assert "ward-7/b" in caplog.text
    lines.clear()
    link.responders["a-1"] = responders(DATA, CONFIG, tmp_path / "ward-8")["a-1"]
    link.responders["c"] = lambda blob: Reply("c", "first", 0, refused="x" * 9999).to_bytes()
    federation.train_round(federation.start_training(aligned))
    assert any("has lost its state" in line for line in lines) and not any("ward" in line for line in lines)
    assert max(map(len, lines)) < 600
    (tmp_path / "ward-7" / "a-2" / "first" / "before.safetensors").unlink()
    last = next(Request.read(blob) for name, blob in reversed(link.asked) if name == "a-2")
    reply = Reply.read(link.responders["a-2"](replace(last, attempt=1).to_bytes()))
    assert "has lost 'before.safetensors'" in reply.refused and "ward" not in reply.refused


def test_nodes_and_server_refuse_what_is_of_another_federation(tmp_path):
    fed, link = away(DATA, CONFIG, tmp_path)
    other = with_(align={"rho": 0.2})
    with pytest.raises(FederationError, match="node 'a-1' refused: node 'a-1' has settings .* the same consortium"):
        away(DATA, other, tmp_path, link=link)
    few = planted(n_anchors=30)
    link.responders["b"] = responders(few, CONFIG, tmp_path)["b"]
    with pytest.raises(FederationError, match="node 'b' has anchors '.*are agreed on"):
        away(DATA, CONFIG, tmp_path, link=link)
    fed, link = away(DATA, CONFIG, tmp_path / "new", run="second")
    federation.train(federation.one_shot(fed))
    before = [blob for name, blob in link.asked if name == "b"]
    assert b"a late or repeated one" in link.responders["b"](before[2])
    for spoilt in (before[-1][:-5], b"", b"\x00" * 30, before[-1] + b"x"):
        assert b"send it again" in link.responders["b"](spoilt)
    lost = responders(DATA, CONFIG, tmp_path / "lost")["b"]
    assert b"was not in run 'second' when it began" in lost(before[-1])
