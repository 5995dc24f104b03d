"""Updates that reach the server in sums alone: nodes behind bytes, lost at each of the phases of a sum."""

from dataclasses import replace

import pytest
import torch
from loops import Loop, away
from planted import planted

from isogram import federation
from isogram.config import AverageConfig, Config, ModelConfig, TrainConfig
from isogram.egress import Oversight
from isogram.envelope import Request
from isogram.errors import EgressError, FederationError, MessageError
from isogram.federation import secure_sum
from isogram.federation.membership import Quorum
from isogram.local.respond import Responder, settings_of
from isogram.messages import Ledger

DATA = planted()
CONFIG = Config(
    data="machines",
    anchors=40,
    model=ModelConfig(width=48, layers=1, rank=2),
    train=TrainConfig(rounds=1, steps=2),
    average=AverageConfig(rule="parameter"),
)
NAMES = sorted(node.name for node in DATA.nodes)
PHASES = ("pair", "parcels", "summand", "shares")


def gathered(config, run="first"):
    return federation.gather(DATA, config, run, oversight=Oversight(more=PHASES))


class Losing(Loop):
    """Loses a node at one step; the step is looked for in the last part of a request."""

    def __init__(self, responders):
        super().__init__(responders)
        self.lost = {}

    def ask(self, requests, wait, arrived=lambda name: None):
        steps = {name: Request.read(blob).parts[-1].step for name, blob in requests.items()}
        self.fail = {name: 1 for name, step in steps.items() if self.lost.get(name) == step}
        return super().ask(requests, wait, arrived)


def aligned(folder, config=CONFIG, quorum=None):
    """A federation behind bytes, its nodes trained in round 1; their link."""

    def of(name, number):
        return Responder(name, lambda run: gathered(config, run).nodes[number], settings_of(config), folder / name)

    link = Losing({name: of(name, number) for number, name in enumerate(NAMES)})
    fed, _ = away(DATA, config, folder, link=link, quorum=quorum or Quorum(1, 0))
    fed = federation.start_training(federation.one_shot(fed))
    fed.tell("trained", fed.members, lambda node: fed.deliver(node, "targets", federation.targets(fed, node, 2)))
    return fed, link


def trained_here():
    """The same of nodes in this process."""
    fed = federation.start_training(federation.one_shot(gathered(CONFIG)))
    fed.tell("trained", fed.members, lambda node: fed.deliver(node, "targets", federation.targets(fed, node, 2)))
    return fed


def plain(config=CONFIG):
    """What the same nodes would have sent bare, by name."""
    fed = federation.start_training(federation.align(DATA, config, "first"))
    found = {}
    for node in fed.nodes:
        node.reset(fed.adapters_of(node))
        down = fed.deliver(node, "targets", federation.targets(fed, node, 2))
        found[node.name] = node.train_round(down)[0]
    return found


def fields_of(up):
    """Of an update, as a summand has them."""
    if up.precision:
        own = {f"adapters/{n}": v.double() for n, v in up.adapters.items()}
        return own | {f"precision/{n}": v.double() for n, v in up.precision.items()}
    own = {f"adapters/{n}": up.samples * v.double() for n, v in up.adapters.items()}
    return own | {"weight": torch.tensor(float(up.samples)).double()}


@pytest.fixture(scope="module")
def bare():
    return {name: fields_of(up) for name, up in plain().items()}


def summed(fed, bare, **more):
    some = next(iter(bare.values()))
    shapes = {name: tuple(value.shape) for name, value in some.items()}
    largest = {name: 4 * max(float(own[name].abs().max()) for own in bare.values()) + 1e-9 for name in shapes}
    return secure_sum(fed, 2, fed.members, shapes, largest, **more)


def assert_sum_of(found, bare, names):
    """To a part in 2^48 of the largest: fixed point, and nothing else, tells the two apart."""
    assert found.nodes == tuple(names)
    for name, value in found.fields.items():
        expected = sum(bare[node][name] for node in names)
        top = max(float(own[name].abs().max()) for own in bare.values()) + 1e-9
        torch.testing.assert_close(value, expected, rtol=0, atol=top * 2.0**-48)


def test_the_sum_of_updates_is_that_of_bare_ones_and_no_update_is_seen(tmp_path, bare):
    heard = []
    fed, _ = aligned(tmp_path)
    found = summed(replace(fed, ledger=Ledger(heard.append)), bare)
    assert_sum_of(found, bare, NAMES)
    assert found.refused == {}
    assert {name for message in heard for name, _ in message.arrays()} == {
        *("pair", "names", "pairs", "parcels", "present", "scales", "summand", "shares"),
    }


def test_updates_weighed_by_rows_too(tmp_path):
    config = CONFIG.model_copy(update={"average": AverageConfig(rule="samples")})
    bare = {name: fields_of(up) for name, up in plain(config).items()}
    found = summed(aligned(tmp_path, config)[0], bare)
    assert_sum_of(found, bare, NAMES)
    assert float(found.fields["weight"]) == sum(len(node.tokens) for node in DATA.nodes)


@pytest.mark.parametrize(
    ("phase", "summed_over"), [("pair", "abc"), ("parcels", "abc"), ("summand", "abc"), ("shares", "abcd")]
)
def test_a_node_lost_at_any_phase_leaves_the_exact_sum_of_those_whose_values_came(tmp_path, bare, phase, summed_over):
    """Four nodes; 'a-2' is lost. Before the third phase its values are not in the sum, after it they are."""
    fed, link = aligned(tmp_path)
    link.lost = {"a-2": phase}
    found = summed(fed, bare)
    there = summed_over == "abcd"
    assert_sum_of(found, bare, NAMES if there else [name for name in NAMES if name != "a-2"])
    assert found.refused == ({} if there else {"a-2": "node 'a-2' did not answer: it was unplugged"})


@pytest.mark.parametrize("phase", PHASES[1:])
def test_too_few_nodes_at_any_phase_are_one_clear_error(tmp_path, bare, phase):
    fed, link = aligned(tmp_path)
    link.lost = {"a-2": phase, "b": phase}
    with pytest.raises(MessageError, match=r"^2 of 4 nodes .* 3 are needed: bring back those that are lost"):
        summed(fed, bare)


def test_the_quorum_holds_in_a_sum_too(tmp_path, bare):
    fed, link = aligned(tmp_path, quorum=Quorum(4))
    link.lost = {"b": "summand"}
    with pytest.raises(FederationError, match="3 of 4 nodes answered, and min_nodes is 4"):
        summed(fed, bare)


def test_a_node_started_again_in_between_is_left_out_and_says_why(tmp_path, bare):
    fed, link = aligned(tmp_path)
    answer = link.responders["b"]

    def forgets(blob):
        if Request.read(blob).parts[-1].step == "summand":
            answer._node = None
        return answer(blob)

    link.responders["b"] = forgets
    found = summed(fed, bare)
    assert_sum_of(found, bare, [name for name in NAMES if name != "b"])
    assert "node 'b' was started again since it sent its keys for this sum" in found.refused["b"]


def test_a_node_whose_values_are_too_large_is_left_out_and_says_which(bare):
    fed = trained_here()
    [node] = [node for node in fed.nodes if node.name == "b"]
    name = next(iter(node.summand))
    node.summand = node.summand | {name: torch.full_like(node.summand[name], torch.inf)}
    found = summed(fed, bare)
    assert_sum_of(found, bare, [name for name in NAMES if name != "b"])
    assert f"{name!r} holds NaN or a value beyond" in found.refused["b"]


def test_without_leave_nothing_of_a_sum_goes_out(tmp_path):
    node = federation.align(DATA, CONFIG, "first").nodes[0]
    with pytest.raises(
        EgressError,
        match="node 'a-1' does not send 'pair' in 'pair' messages: they have it where align.secure, or train.rounds",
    ):
        node.send_pair(2)


def test_nodes_of_this_process_sum_the_same(bare):
    fed = trained_here()
    assert_sum_of(summed(fed, bare), bare, NAMES)
    assert all(node.summand is None for node in fed.nodes)
