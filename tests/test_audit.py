"""The audit's attacks: each finds what was planted, and nothing where nothing is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted
from scipy.stats import binom
from typer.testing import CliRunner

from isogram import federation
from isogram.alignment import Standardizer, gram, shrink
from isogram.audit import attributes, audit, audit_run, grams, membership, protocols
from isogram.audit.attacker import Attacker
from isogram.audit.game import Game
from isogram.audit.inversion import gain, likeness
from isogram.audit.membership import Guesses, epsilon_at_least
from isogram.audit.statistics import statistics
from isogram.cli import app
from isogram.config import Config, PrivacyConfig
from isogram.data import load
from isogram.errors import ConfigError, RunError
from isogram.messages import Down


def replays(r: int, n: int, f: int, effect: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """[R, n, f] statistics that members have `effect` more of, over rows that differ by far more; [R, n] members."""
    draw = np.random.default_rng(seed)
    members = draw.random((r, n)) < 0.5
    rows = 10 * draw.standard_normal((n, f))
    return rows + draw.standard_normal((r, n, f)) + effect * members[:, :, None], members


def test_members_are_told_by_shadow_runs_where_rows_differ_more_than_membership_does():
    values, members = replays(10, 80, 2, effect=2.0)
    found = membership.scores({"a": values}, {"a": members})["a"]
    assert np.mean([membership.auc(s, m) for s, m in zip(found, members, strict=True)]) > 0.9
    raw = np.mean([membership.auc(v[:, 0], m) for v, m in zip(values, members, strict=True)])
    assert raw < 0.65, "without shadow runs rows' own differences hide it"


def test_nothing_is_told_where_nothing_is():
    values, members = replays(12, 200, 3, effect=0.0)
    found = membership.scores({"a": values}, {"a": members})["a"]
    aucs = [membership.auc(s, m) for s, m in zip(found, members, strict=True)]
    assert abs(np.mean(aucs) - 0.5) < 0.03
    assert np.mean(membership.epsilon_bounds(list(zip(found, members, strict=True)), 1e-5)) < 0.1


def test_what_is_the_same_in_every_replay_tells_exactly_nothing():
    _, members = replays(6, 30, 1, effect=0.0)
    same = np.broadcast_to(np.random.default_rng(0).standard_normal((1, 30, 2)), (6, 30, 2))
    found = membership.scores({"a": same}, {"a": members})["a"]
    assert {membership.auc(s, m) for s, m in zip(found, members, strict=True)} == {0.5}


def test_a_score_does_not_depend_on_who_was_in_the_replay_it_is_of():
    values, members = replays(6, 40, 1, effect=1.0)
    other = members.copy()
    other[2] = ~other[2]
    first, second = (membership.scores({"a": values}, {"a": m})["a"][2] for m in (members, other))
    np.testing.assert_array_equal(first, second)


def test_bound_on_epsilon_has_the_closed_form_where_all_guesses_are_right():
    q = 0.05 ** (1 / 100)
    assert epsilon_at_least(Guesses(100, 100, 100), 0.0) == pytest.approx(np.log(q / (1 - q)), abs=1e-6)
    assert epsilon_at_least(Guesses(100, 100, 50), 0.0) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.floats(0, 1e-3))
def test_bound_on_epsilon_grows_with_right_guesses_and_falls_with_delta(r: int, v: int, delta: float):
    v = min(v, r)
    bound = epsilon_at_least(Guesses(100, r, v), delta)
    assert bound <= epsilon_at_least(Guesses(100, r, v), 0.0) + 1e-9
    assert bound <= epsilon_at_least(Guesses(100, r, min(r, v + 1)), delta) + 1e-9


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_bound_on_epsilon_holds_for_randomised_response(epsilon: float):
    right = binom(200, 1 / (1 + np.exp(-epsilon)))
    wrong = sum(right.pmf(v) for v in range(201) if epsilon_at_least(Guesses(200, 200, v), 0.0) > epsilon)
    assert wrong <= 0.05


def test_surest_guesses_are_counted():
    score, members = np.array([3.0, -2.0, 0.1, -0.1]), np.array([True, True, False, False])
    assert Guesses.surest(score, members, 0.5) == Guesses(4, 2, 1)


def test_true_positives_at_few_false_ones():
    score, members = np.array([5.0, 4, 3, 2, 1, 0]), np.array([True, True, False, True, False, False])
    assert membership.at_false_positives(score, members, 0.01) == pytest.approx(2 / 3)


# What Grams determine.


def test_gram_determines_anchors_up_to_rotation():
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    assert grams.up_to_rotation(shrink(gram(x), 0.1), x @ turn) < 1e-9
    other = torch.randn(40, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert grams.up_to_rotation(shrink(gram(x), 0.1), other) > 0.5


def test_private_scales_are_read_off_a_gram_that_has_them_and_not_off_ours():
    draw = torch.Generator().manual_seed(0)
    spread = torch.rand(20, generator=draw, dtype=torch.float64) * 4 + 0.5
    anchors = torch.randn(40, 20, generator=draw, dtype=torch.float64)
    rows = spread * torch.randn(90, 20, generator=draw, dtype=torch.float64)
    found = grams.private_scale(anchors, rows, 0.1)
    assert found is not None
    assert found["private"][0] < 1e-3
    assert found["anchors"][0] > 0.2


def test_more_features_than_entries_leave_scales_open():
    anchors = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    assert grams.scales(shrink(gram(Standardizer.fit(anchors, 5.0)(anchors)), 0.1), anchors) is None


# Reconstruction and attributes.


def test_gain_is_of_members_alone():
    draw = np.random.default_rng(0)
    rows = torch.from_numpy(draw.standard_normal((40, 30)))
    members = np.arange(40) < 20
    assert gain(rows[:5], rows, members, draw) > 0.3
    blind = [gain(torch.from_numpy(draw.standard_normal((5, 30))), rows, members, draw) for _ in range(50)]
    assert abs(np.mean(blind)) < 0.05
    assert gain(rows[:5], rows, np.ones(40, bool), draw) is None


def test_likeness_is_of_a_kind_of_rows():
    draw, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
    rows = torch.from_numpy(draw.standard_normal((40, 30)) + 3 * np.eye(30)[0])
    members = np.arange(40) < 20
    kind = torch.eye(30)[:1] * 3
    assert likeness(kind, rows, members, noise) > 0.2
    assert likeness(torch.eye(30)[1:2], rows, members, noise) < 0.1
    assert likeness(kind, rows, np.zeros(40, bool), noise) is None


def test_sites_are_named_by_their_own_rows_and_at_chance_where_all_messages_are_alike():
    draw = np.random.default_rng(0)
    told, alike = [], []
    for _ in range(12):
        groups = [np.arange(i * 10, i * 10 + 10) for i in range(4)]
        values = {f"n{i}": draw.standard_normal((40, 2)) + 3 * (np.arange(40)[:, None] // 10 == i) for i in range(4)}
        told.append(attributes.table(values, groups))
        alike.append(attributes.table(dict.fromkeys("abcd", values["n0"]), groups))
    assert np.mean(attributes.sites_named(told)) == 1.0
    assert np.mean(attributes.sites_named(alike)) < 0.6


def test_mixes_are_told():
    draw = np.random.default_rng(0)
    tables, truth = [], []
    for _ in range(6):
        shares = draw.dirichlet(np.ones(4), 3)
        tables.append(shares[:, :, None] + 0.01 * draw.standard_normal((3, 4, 2)))
        truth.append(shares)
    tables = [t - t.mean(0) - t.mean(1, keepdims=True) + t.mean((0, 1)) for t in tables]
    assert np.mean(attributes.mix_told(tables, truth)) > 0.9
    noise = [draw.standard_normal((3, 4, 2)) for _ in range(6)]
    assert abs(np.mean(attributes.mix_told(noise, truth))) < 0.5


# The game.


@pytest.fixture(scope="module")
def game() -> Game:
    return Game.of(load("machines", anchors=20, seed=0), canaries=4, seed=0)


def test_coins_are_fair_and_the_same_for_a_seed(game: Game):
    first, again = game.coins(3), game.coins(3)
    for node, own in first.items():
        np.testing.assert_array_equal(own, again[node])
        assert 0.35 < own.mean() < 0.65
    assert any((first[node] != other).any() for node, other in game.coins(4).items())


def test_only_rows_that_are_in_are_played(game: Game):
    coins = game.coins(0)
    for node, before in zip(game.played(coins).nodes, game.data.nodes, strict=True):
        np.testing.assert_array_equal(node.tokens, before.tokens[coins[node.name]])
        assert game.is_canary(node.name).sum() == 4


def test_pool_holds_every_candidate_in_place(game: Game):
    for modality in game.data.modalities:
        pool, places = game.pool(modality), game.places(modality)
        for node in game.members(modality):
            np.testing.assert_array_equal(pool.tokens[places[node.name]], node.tokens)


def test_too_few_rows_to_leave_half_out():
    data = load("machines", anchors=20, seed=0)
    node = data.nodes[0]
    few = replace(node, tokens=node.tokens[:5], labels=None if node.labels is None else node.labels[:5])
    with pytest.raises(ConfigError, match=repr(few.name)):
        Game.of(replace(data, nodes=(few, *data.nodes[1:])), 2, 0)


# Fields of messages, end to end on a planted federation.


def attacked(field: str, replays: int = 12, **settings: object) -> tuple[list[float], list[float]]:
    """AUC and bound on epsilon of one field at the a nodes, for each replay."""
    small = Game.of(planted(private=20), 0, 0)
    found: dict[str, list[np.ndarray]] = {"a-1": [], "a-2": []}
    members: dict[str, list[np.ndarray]] = {"a-1": [], "a-2": []}
    for number in range(replays):
        coins = small.coins(number)
        if "privacy" in settings:
            settings["privacy"] = PrivacyConfig(epsilon=8, noise_seed=number)
        config = Config(**{"data": "machines", "train": {"rounds": 0}, **settings})
        recording = protocols.isogram(small.played(coins), config)
        attackers = {"a": double(small, recording)}
        labelled = replace(small, data=replace(small.data, nodes=tuple(small.members("a"))))
        of = statistics(labelled, recording, attackers)
        for node in found:
            found[node].append(of[f"{field}/{node}"].numpy()[small.places("a")[node]])
            members[node].append(coins[node])
    in_ = {node: np.stack(own) for node, own in members.items()}
    score = membership.scores({node: np.stack(of) for node, of in found.items()}, in_)
    pairs = [tuple(np.concatenate([of[node][r] for node in found]) for of in (score, in_)) for r in range(replays)]
    return [membership.auc(*pair) for pair in pairs], membership.epsilon_bounds(pairs, 1e-5)


def double(of: Game, recording: protocols.Recording) -> Attacker:
    width = next(m.frame.shape[1] for m in recording.messages if isinstance(m, Down) and m.frame is not None)
    anchors = of.data.anchors
    return Attacker(of.pool("a"), anchors.items["a"], len(anchors), recording, recording.of("a-1"), width)


def test_class_sums_and_prototypes_of_few_rows_tell_who_is_in_them():
    assert np.mean(attacked("prototypes")[0]) > 0.6
    assert np.mean(attacked("class sums", average={"head": "means"})[0]) > 0.6
    assert np.mean(attacked("class sums", average={"head": "laplace"})[0]) > 0.6


def test_updates_of_few_rows_tell_who_trained_them():
    train = {"rounds": 1, "steps": 30, "lr": 3e-3, "weights": {"task": 1.0, "teacher": 0.0, "frame": 0.0, "cka": 0.0}}
    settings = {"train": train, "model": {"width": 48, "layers": 1}, "average": {"head": "means"}}
    assert np.mean(attacked("updates", 8, **settings)[0]) > 0.55


def test_noise_on_class_sums_tells_less_and_no_bound_is_above_what_is_stated():
    plain, noisy = (attacked("class sums", **s) for s in ({"average": {"head": "means"}}, {"privacy": {"epsilon": 8}}))
    assert np.mean(noisy[0]) < np.mean(plain[0])
    assert max(noisy[1]) < 8


def test_under_differential_privacy_the_double_has_a_node_s_own_coordinates():
    small = Game.of(planted(), 0, 0)
    data = small.played(small.coins(0))
    config = Config(data="machines", train={"rounds": 1, "steps": 1}, privacy={"epsilon": 8, "noise_seed": 1})
    own = federation.align(data, config).nodes[0].embed(small.members("a")[0].tokens)
    got = double(small, protocols.isogram(data, config)).coordinates[small.places("a")["a-1"]]
    torch.testing.assert_close(got, own, rtol=1e-4, atol=1e-4)


def test_a_node_whose_labels_are_all_unknown_is_attacked_as_one_without():
    data = planted(private=20)
    unknown = tuple(replace(n, labels=np.full(20, -1)) if n.name == "a-2" else n for n in data.nodes)
    small = Game.of(replace(data, nodes=unknown), 3, 0)
    config = Config(data="machines", train={"rounds": 0}, privacy={"epsilon": 8, "noise_seed": 0})
    recording = protocols.isogram(small.played(small.coins(0)), config)
    assert recording.prototypes["a-2"].isfinite().all()
    assert (small.pool("a").labels[small.places("a")["a-2"]] == -1).all()


def test_the_double_stays_as_it_is_when_it_takes_steps():
    small = Game.of(planted(), 0, 0)
    config = Config(data="machines", train={"rounds": 1, "steps": 2, "projector_lr": 1e-2}, model={"width": 48})
    recording = protocols.isogram(small.played(small.coins(0)), config)
    attacker = double(small, recording)
    before = attacker.losses(None)
    targets = next(m for m in recording.of("a-1") if isinstance(m, Down) and m.round == 2)
    assert attacker.expected_update(targets).adapters
    torch.testing.assert_close(attacker.losses(None), before, rtol=0, atol=0)


# The whole.

SETTINGS = """
name = "small"
data = "files"
[align]
rank = 6
[model]
width = 8
layers = 1
rank = 2
[train]
rounds = 2
steps = 2
[files]
labels = "class"
classes = ["a", "b"]
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on tables of three nodes, two of one modality."""
    folder, draw = tmp_path_factory.mktemp("audited"), np.random.default_rng(0)
    mixing = {modality: draw.standard_normal((3, 5)) for modality in ("one", "two")}
    text = SETTINGS + f'[output]\nfolder = "{folder}"\n'

    def write(name: str, modality: str, n: int, lead: str, first: list[str]) -> None:
        rows = draw.standard_normal((n, 3)) @ mixing[modality]
        lines = [f"{lead},{','.join('vwxyz')}"]
        lines += [",".join([key, *(f"{x:.4f}" for x in row)]) for key, row in zip(first, rows, strict=True)]
        (folder / name).write_text("\n".join(lines) + "\n")

    shared = draw.standard_normal((16, 3))
    for modality, mix in mixing.items():
        lines = ["id,v,w,x,y,z"]
        lines += [f"i{i}," + ",".join(f"{x:.4f}" for x in row) for i, row in enumerate(shared @ mix)]
        (folder / f"anchors-{modality}.csv").write_text("\n".join(lines) + "\n")
    for node, modality in (("one-1", "one"), ("one-2", "one"), ("two-1", "two")):
        labelled = modality == "one"
        first = ["ab"[i % 2] if labelled else f"r{i}" for i in range(24)]
        write(f"{node}.csv", modality, 24, "class" if labelled else "id", first)
        text += f'[[files.nodes]]\nname = "{node}"\nmodality = "{modality}"\nrows = "{node}.csv"\n'
        text += f'anchors = "anchors-{modality}.csv"\n'
    (folder / "small.toml").write_text(text)
    ran = CliRunner().invoke(app, ["run", str(folder / "small.toml"), "--quiet", "--force"])
    assert ran.exit_code == 0, ran.output
    return folder / "small"


def test_audit_of_a_run_goes_on_and_lands_on_its_page(small: Path):
    log = (small / "egress.jsonl").read_text()
    interrupted = json.loads(log.splitlines()[0]) | {"sha256": "of other versions"}
    (small / "egress.jsonl").write_text(f'{json.dumps(interrupted)}\n{{"resumed": null}}\n{log}')
    command = ["audit", str(small), "--replays", "3", "--canaries", "2", "--jobs", "1"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    rows = (small / "audit.jsonl").read_text()
    kept = {path: path.stat().st_mtime_ns for path in (small / "audit").iterdir()}
    (small / "audit" / "replay-001.safetensors").unlink()
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0 and "kept from before" in again.output
    assert (small / "audit.jsonl").read_text() == rows, "the same replays give the same figures"
    assert (small / "audit" / "replay-000.safetensors").stat().st_mtime_ns == kept[
        small / "audit" / "replay-000.safetensors"
    ]
    page = (small / "report.html").read_text()
    assert "what attacks make of the messages" in page
    found = [json.loads(line) for line in rows.splitlines()]
    assert {row["value"] for row in found if row["metric"] == "varies"} == {0.0}
    assert max(row["value"] for row in found if row["metric"] == "rebuilt-one-row") > 0.8
    assert [row["value"] for row in found if row["metric"] == "repeated"] == [1.0]


def test_audit_refuses_what_it_cannot_follow(tmp_path: Path):
    with pytest.raises(ConfigError, match="train.refresh"):
        audit(Config(data="machines", train={"refresh": 2}), tmp_path, 3, 2, 0, 1)
    with pytest.raises(RunError, match="holds no run"):
        audit_run(tmp_path, 3, 2, 0, 1)


@pytest.mark.parametrize("state", [None, "unfinished"])
def test_audit_of_a_run_that_is_not_complete_says_what_to_do(small: Path, tmp_path: Path, state: str | None):
    (tmp_path / "config.toml").write_text((small / "config.toml").read_text())
    if state:
        found = json.loads((small / "run.json").read_text()) | {"complete": False}
        (tmp_path / "run.json").write_text(json.dumps(found))
    with pytest.raises(RunError, match="not complete: finish it by"):
        audit_run(tmp_path, 3, 2, 0, 1)
