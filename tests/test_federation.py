from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted, seen_in_training
from torch.testing import assert_close

from isogram import federation
from isogram.aggregation import trained_is_better
from isogram.alignment import fit_map
from isogram.config import Config, ModelConfig, TermWeights, TrainConfig
from isogram.data import evaluation
from isogram.data.base import HeldOut
from isogram.errors import AnchorError, ConfigError, HeldOutError, MessageError
from isogram.evaluation import evaluate
from isogram.local import Node
from isogram.messages import Up

CONFIG = Config(
    data="machines",
    anchors=40,
    model=ModelConfig(width=48, layers=1),
    train=TrainConfig(rounds=2, steps=3, lr=1e-3, projector_lr=1e-3),
)


def scores(data, fed):
    found = evaluate(data, {node.name: node.embed for node in fed.nodes}, fed.head)
    return {(s.metric, s.direction): s.value for s in found}


def everything_trained(fed):
    """All that training may have changed, at every node."""
    out = {}
    for node in fed.nodes:
        out |= {f"{node.name} {name}": p.detach().clone() for name, p in node.model.named_parameters()}
        out[f"{node.name} map"] = node.map.weight
    return out | {"head": fed.head, "frame": fed.frame, "consensus": fed.consensus}


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module")
def trained(data):
    return federation.train(federation.align(data, CONFIG))


def test_one_shot_aligns_what_no_pair_connects(data):
    found = scores(data, federation.align(data, CONFIG))
    assert min(found["r1", d] for d in ("a->b", "b->a", "a->c", "c->b")) > 0.6  # chance is .02
    assert min(found["cka", d] for d in ("a->b", "a->c", "b->c")) > 0.8
    assert found["accuracy", "b"] > 0.8  # labelled at the a nodes only


def test_one_shot_messages_are_functions_of_public_data_alone():
    def sent(private_seed, private):
        fed = federation.align(planted(private_seed=private_seed, private=private), CONFIG)
        return [(node.send_gram(0).to_bytes(), node.metric) for node in fed.nodes]

    for (gram, weight), (other_gram, other_weight) in zip(sent(0, 60), sent(1, 80), strict=True):
        assert gram == other_gram
        assert_close(weight, other_weight, rtol=0, atol=0)


def test_one_shot_sends_the_triangle_and_no_more(data):
    plain = CONFIG.model_copy(update={"align": CONFIG.align.model_copy(update={"metric": False})})
    ledger = federation.align(data, plain).ledger
    sent = {(e.field, e.shape) for e in ledger.entries if e.direction == "up" and e.node == "b" and e.field != "header"}
    assert sent == {("gram", (40 * 41 // 2,))}


@pytest.mark.parametrize("trunk", ["none", "small"])
def test_before_the_first_step_the_model_is_the_one_shot_map(data, trunk):
    config = CONFIG.model_copy(update={"train": TrainConfig(rounds=0), "model": ModelConfig(trunk=trunk, width=48)})
    start = federation.align(data, config)
    with evaluation():
        rows = {node.name: data.held_out.tokens(node.modality) for node in start.nodes}
    before = {node.name: node.embed(rows[node.name]) for node in start.nodes}
    after = federation.train(start)
    for node in after.nodes:
        assert node.model is not None
        assert_close(node.embed(rows[node.name]), before[node.name], rtol=1e-5, atol=1e-5)
    assert_close(after.head, start.head, rtol=1e-4, atol=1e-5)


def test_training_sees_each_anchor_as_a_row_that_its_map_was_not_fitted_to():
    data = planted(noise=0.3)
    train = TrainConfig(rounds=0, folds=40)  # one anchor a fold
    align = CONFIG.align.model_copy(update={"decorrelate": False, "propagate": False})
    fed = federation.train(federation.align(data, CONFIG.model_copy(update={"train": train, "align": align})))
    for node in fed.nodes:
        for i in (0, 17, 39):
            keep = torch.arange(40) != i
            without = fit_map(node.anchors[keep], node.target[keep], align.rho, align.clip, node.metric)
            assert_close(seen_in_training(node)[i], without(node.anchors[i : i + 1])[0], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(seen_in_training(node), node.embed_anchors(), atol=0.01)


def test_training_moves_what_is_shared_alike_and_what_is_private_apart(data, trained):
    fresh = federation.train(federation.align(data, CONFIG.model_copy(update={"train": TrainConfig(rounds=0)})))
    zero = {n: p for node in fresh.nodes for n, p in node.model.shared.named_parameters() if n.startswith("out.")}
    moved = [node.model.shared.state() for node in trained.nodes]
    assert set(zero) <= set(moved[0]) and all(float(moved[0][name].abs().max()) > 0 for name in zero)
    for other in moved[1:]:
        for name, value in other.items():
            assert_close(value, moved[0][name], rtol=0, atol=0)
    changes = [node.model.projector.change for node in trained.nodes]
    assert all(bool(change.any()) for change in changes)
    assert not torch.equal(changes[0], changes[1])


def test_training_lowers_the_loss_that_it_names(data):
    config = CONFIG.model_copy(update={"train": TrainConfig(rounds=6, steps=10, lr=3e-3, projector_lr=3e-3)})
    history = federation.train(federation.align(data, config)).history
    assert set(history[0]) == {"task", "cka", "frame", "teacher"}
    assert history[-1]["frame"] < 0.8 * history[0]["frame"]


def test_the_same_seed_gives_the_same_bits_and_the_order_of_nodes_does_not_matter(trained):
    again = everything_trained(federation.train(federation.align(planted(), CONFIG)))
    turned = everything_trained(federation.train(federation.align(planted(reverse=True), CONFIG)))
    for name, value in everything_trained(trained).items():
        assert_close(again[name], value, rtol=0, atol=0)
        assert_close(turned[name], value, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_cuda_is_training_on_the_cpu(trained):
    train = CONFIG.train.model_copy(update={"device": "cuda"})
    cuda = federation.train(federation.align(planted(), CONFIG.model_copy(update={"train": train})))
    for node, other in zip(trained.nodes, cuda.nodes, strict=True):
        assert_close(other.embed_anchors(), node.embed_anchors(), rtol=1e-3, atol=1e-3)


def test_training_takes_nothing_from_the_global_random_state(data):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    federation.train(federation.align(data, CONFIG))
    assert torch.equal(torch.get_rng_state(), before)


class Poisoned(HeldOut):
    """Fails whoever opens it, in evaluation or not."""

    def _fail(self, *_: object) -> None:
        raise AssertionError("training opened held-out rows")

    tokens = labels = private_labels = _fail


def test_held_out_rows_have_no_part_in_training(data, trained):
    poisoned = replace(data, held_out=Poisoned({}, {}, paired=True, private={}))
    fed = federation.train(federation.align(poisoned, CONFIG))
    fed, _ = federation.keep_better(fed, poisoned)
    apart = planted(held_out_seed=9)
    other = everything_trained(federation.train(federation.align(apart, CONFIG)))
    for name, value in everything_trained(trained).items():
        assert_close(other[name], value, rtol=0, atol=0)


def test_a_run_that_reads_test_rows_outside_evaluation_fails(data, monkeypatch):
    step = Node.train_round

    def peek(node, down, sketch):
        data.held_out.tokens(node.modality)
        return step(node, down, sketch)

    monkeypatch.setattr(Node, "train_round", peek)
    with pytest.raises(HeldOutError):
        federation.train(federation.align(data, CONFIG))


def test_no_message_holds_an_array_as_long_as_private_rows():
    """The private rows' number, 61, is that of no other axis here, nor a divisor of any other array's size."""
    data = planted(private=61)
    weights = TermWeights.only(task=0.1, cka=1, frame=1, teacher=1, prototype=1)
    config = CONFIG.model_copy(
        update={"train": CONFIG.train.model_copy(update={"weights": weights, "frame_update": 0.5})}
    )
    fed, _ = federation.keep_better(federation.train(federation.align(data, config)), data)
    assert {e.field for e in fed.ledger.entries} >= {
        "gram",
        "head",
        "key",
        "frame",
        "geometry",
        "block_trained",
        "embeddings",
    }
    for entry in fed.ledger.entries:
        assert 61 not in entry.shape and not (entry.shape and np.prod(entry.shape) % 61 == 0)


def test_labelled_nodes_add_class_sums_and_a_key_and_others_nothing(data):
    fed = federation.align(data, CONFIG)
    sent = {node.name: {} for node in fed.nodes}
    for entry in fed.ledger.entries:
        if entry.direction == "up" and entry.round == 1 and entry.field != "header":
            sent[entry.node][entry.field] = entry.shape
    plain = {"gram": (40 * 41 // 2,)}
    labelled = plain | {"key": (32,), "counts": (3,), "head": (3, fed.frame.shape[1])}
    assert sent == {"a-1": labelled, "a-2": labelled, "b": plain, "c": plain}


def test_silos_without_a_common_anchor_align_through_a_third():
    data = planted(n_anchors=60, holds={"a": range(30), "b": range(30, 60)})
    found = scores(data, federation.align(data, CONFIG))
    assert found["r1", "a->b"] > 0.3 and found["r1", "b->a"] > 0.3  # chance is .02


def test_silos_that_nothing_connects_are_refused():
    data = planted(holds={"a": range(20), "b": range(20, 40), "c": range(20, 40)})
    with pytest.raises(AnchorError, match="2 groups"):
        federation.align(data, CONFIG)


def test_the_frame_follows_training_and_keeps_its_meaning(data):
    config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"frame_update": 0.3})})
    start = federation.align(data, config)
    fed = federation.train(start)
    cosines = torch.nn.functional.cosine_similarity(fed.frame, start.frame, dim=1)
    assert not torch.equal(fed.frame, start.frame) and float(cosines.min()) > 0.8
    assert scores(data, fed)["r1", "a->b"] > 0.5


def test_a_choice_between_start_and_trained_model_is_kept_per_node(data, trained):
    fed, fell_back = federation.keep_better(trained, data)
    for node, before in zip(fed.nodes, trained.nodes, strict=True):
        assert before.model is not None
        assert (node.model is None) is (node.name in fell_back)
    excluded = round(federation.HELD_OUT_SHARE * 40)
    trial = [
        e for e in fed.ledger.entries if e.field == "gram" and e.shape == ((40 - excluded) * (41 - excluded) // 2,)
    ]
    assert len(trial) == 2 * len(fed.nodes)
    assert {e.shape for e in fed.ledger.entries if e.field == "block_trained"} == {(excluded, 40 - excluded)}


def test_training_that_spoils_the_model_is_thrown_away(data):
    wild = TrainConfig(rounds=1, steps=20, lr=0.3, projector_lr=0.3, weights=TermWeights.only(cka=1))
    fed, fell_back = federation.keep_better(
        federation.train(federation.align(data, CONFIG.model_copy(update={"train": wild}))), data
    )
    assert fell_back == [node.name for node in fed.nodes]


def blocks(node, modality, start, trained, index=range(6)):
    return Up(
        node=node,
        modality=modality,
        round=3,
        anchor_hash="h",
        index=torch.tensor(list(index), dtype=torch.int32),
        block_start=start,
        block_trained=trained,
    )


def test_the_server_sees_which_model_finds_held_out_anchors():
    draw = torch.Generator().manual_seed(0)
    frame = torch.randn(20, 5, generator=draw, dtype=torch.float64)
    truth = torch.randn(6, 5, generator=draw, dtype=torch.float64)
    a, b = truth + 0.7 * torch.randn(2, 6, 5, generator=draw, dtype=torch.float64)
    near = truth @ frame.T
    ups = [blocks("a", "a", a @ frame.T, near), blocks("b", "b", near, b @ frame.T), blocks("c", "c", near, near)]
    assert trained_is_better(ups, frame, 0.1) == {"a": True, "b": False, "c": False}
    assert trained_is_better(ups[::-1], frame, 0.1) == {"a": True, "b": False, "c": False}
    with pytest.raises(MessageError, match="two updates"):
        trained_is_better([ups[0], ups[0]], frame, 0.1)


def test_held_out_anchors_that_no_other_modality_holds_speak_for_nothing():
    frame = torch.eye(6, dtype=torch.float64)
    ups = [blocks("a", "a", frame, frame), blocks("b", "b", frame, frame, index=range(10, 16))]
    assert trained_is_better(ups, frame, 0.1) == {"a": False, "b": False}


def test_a_lone_labelled_node_sends_no_sum_of_few_rows(data):
    few = data.nodes[0].labels.copy()
    few[np.flatnonzero(few == 2)[4:]] = -1
    nodes = (replace(data.nodes[0], labels=few), replace(data.nodes[1], labels=None), *data.nodes[2:])
    fed = federation.align(replace(data, nodes=nodes), CONFIG)
    assert fed.head[2].isnan().all() and not fed.head[:2].isnan().any()


def test_the_same_few_rows_count_within_a_sum_over_two_nodes(data):
    few = data.nodes[0].labels.copy()
    few[np.flatnonzero(few == 2)[4:]] = -1
    fed = federation.align(replace(data, nodes=(replace(data.nodes[0], labels=few), *data.nodes[1:])), CONFIG)
    assert not fed.head.isnan().any()


def test_a_message_for_another_node_or_other_anchors_is_refused(data):
    fed = federation.gather(data, CONFIG)
    node = fed.nodes[0]
    down = fed.down(node, 1, head=torch.full((3, 5), torch.nan))
    fed.deliver(node, "head", down)
    with pytest.raises(MessageError, match="the server, to node 'a-1', sent a message of node 'b'"):
        fed.deliver(node, "head", replace(down, node="b"))
    with pytest.raises(MessageError, match="same anchor files"):
        fed.deliver(node, "head", replace(down, anchor_hash="other"))


def test_with_too_few_anchors_to_spare_any_all_nodes_fall_back():
    data = planted(n_anchors=6)
    fed, fell_back = federation.keep_better(federation.train(federation.align(data, CONFIG)), data)
    assert fell_back == [node.name for node in fed.nodes] and all(node.model is None for node in fed.nodes)


def test_training_leaves_the_federation_that_it_starts_from_as_it_was(data):
    start = federation.align(data, CONFIG)
    entries = len(start.ledger.entries)
    before = start.nodes[0].embed_anchors()
    trained = federation.train(start)
    federation.keep_better(trained, data)
    assert_close(start.nodes[0].embed_anchors(), before, rtol=0, atol=0)
    assert start.nodes[0].model is None and trained.nodes[0].model is not None
    assert len(trained.ledger.entries) > entries


def test_a_frame_term_without_a_frame_is_refused(data):
    with pytest.raises(ConfigError, match="frame"):
        federation.train(federation.start_apart(data, CONFIG))


def test_too_few_anchors_are_refused():
    with pytest.raises(AnchorError, match="holds 3 anchors"):
        federation.align(planted(holds={"b": range(3)}), CONFIG)
