"""Updates to average, and the averages by plain Python numbers, one parameter after the other."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st

from isogram.averaging import average, dealers, node_weights
from isogram.config import AverageConfig
from isogram.local import precision_of
from isogram.messages import Up

SEEDS = st.integers(0, 2**32)
SHAPES = {"layer.A": (2, 3), "layer.B": (3,), "out": (1, 4), "gain": ()}
MODEL = "small bert 2x128 #1a2b3c4d, geolora, rank 8"
RULES = ("uniform", "samples", "node", "parameter")


def update(node, **fields):
    return Up(node=node, modality="rna", round=2, anchor_hash="a" * 64, model=MODEL, **fields)


def values(rng, scale=1.0, shapes=SHAPES):
    return {key: torch.tensor(scale * rng.normal(size=shape), dtype=torch.float32) for key, shape in shapes.items()}


def precisions(rng, scale=1.0, shapes=SHAPES):
    """Squares with a long tail, a fifth of them 0."""
    return {
        key: torch.tensor(scale * (rng.random(shape) > 0.2) * np.exp(3 * rng.normal(size=shape)), dtype=torch.float32)
        for key, shape in shapes.items()
    }


def trained(seed, n_nodes=4):
    """What the nodes have in common, updates in no particular order, and residuals."""
    rng = np.random.default_rng(seed)
    names = rng.permutation([f"node{n}" for n in range(n_nodes)]).tolist()
    updates = [
        update(
            name,
            samples=int(rng.integers(1, 1000)),
            adapters=values(rng, 10 ** rng.uniform(-2, 2)),
            precision=precisions(rng, 10 ** rng.uniform(-9, 0)),
        )
        for name in names
    ]
    return values(rng), updates, {name: float(rng.uniform(0.0001, 2)) for name in names}


def as_sent(up, config):
    """An update as its node sends it, made of adapters and second moments."""
    if config.rule != "parameter":
        return up
    precision = {key: precision_of(moment, up.samples, config) for key, moment in up.precision.items()}
    return replace(up, adapters={k: v * precision[k] for k, v in up.adapters.items()}, precision=precision)


def averaged(updates, previous, config, residuals=None):
    return average([as_sent(up, config) for up in updates], previous, config, residuals)


def weighed(updates, config, residuals=None):
    return node_weights([as_sent(up, config) for up in updates], config, residuals)


def masses(updates, config):
    """What the weights are multiplied by in the sums."""
    if config.rule != "parameter":
        return {up.node: 1.0 for up in updates}
    sent = [as_sent(up, config) for up in updates]
    return {up.node: sum(float(p.double().sum()) for p in up.precision.values()) for up in sent}


@st.composite
def configs(draw):
    return AverageConfig(
        rule=draw(st.sampled_from(RULES)),
        prior=draw(st.sampled_from([0.0, 0.1, 2.0])),
        clip=draw(st.sampled_from([1.1, 3.0, 1e6])),
        temper=draw(st.sampled_from([1.0, 0.5, 0.1])),
        cap=draw(st.sampled_from([1.0, 0.6, 0.4, 0.1])),
        relative=draw(st.booleans()),
        shuffle=draw(st.integers(0, 3)),
    )


# The naive reference: plain Python numbers, one parameter after the other.


def evidence_of(up, config):
    """Rows times tempered, bounded and perhaps relative second moments of an update, key by key, flat."""
    found = {}
    for key, precision in up.precision.items():
        numbers = [float(p) ** config.temper if p > 0 else 0.0 for p in precision.flatten()]
        mean = sum(numbers) / len(numbers)
        bounded = [min(p, config.clip * mean) for p in numbers]
        relative = [p / mean if mean else 0.0 for p in bounded] if config.relative else bounded
        found[key] = [up.samples * p for p in relative]
    return found


def naive_weights(updates, config, residuals):
    names = sorted(up.node for up in updates)
    by_name = {up.node: up for up in updates}
    raw = {}
    for name in names:
        raw[name] = {
            "uniform": 1.0,
            "samples": by_name[name].samples,
            "node": by_name[name].samples / max(residuals[name], 1e-3),
            "parameter": 1.0,
        }[config.rule]
    size = dict.fromkeys(names, 1.0)
    if config.rule == "parameter":
        for name in names:
            size[name] = sum(p for part in evidence_of(by_name[name], config).values() for p in part)
    share = {name: raw[name] * size[name] for name in names}
    share = {name: value / sum(share.values()) for name, value in share.items()}
    if config.cap < 1:
        if config.cap * len(names) <= 1:
            share = dict.fromkeys(names, 1 / len(names))
        for _ in range(1000):  # bit by bit, what is above the cap is dealt to those below it
            excess = sum(max(value - config.cap, 0) for value in share.values())
            share = {name: min(value, config.cap) for name, value in share.items()}
            below = sum(value for value in share.values() if value < config.cap)
            if excess < 1e-15 or not below:
                break
            share = {n: v * (1 + excess / below) if v < config.cap else v for n, v in share.items()}
    weight = {name: share[name] / size[name] for name in names}
    return {name: value / sum(weight.values()) for name, value in weight.items()}


def naive(updates, previous, config, residuals):
    weights, by_name = naive_weights(updates, config, residuals), {up.node: up for up in updates}
    dealt = dealers(sorted(by_name), config)
    out = {}
    for key, before in previous.items():
        flat = before.flatten().tolist()
        above, below = [0.0] * len(flat), [0.0] * len(flat)
        for name, dealer in dealt.items():
            theta = by_name[name].adapters[key].flatten().tolist()
            factor = evidence_of(by_name[dealer], config)[key] if config.rule == "parameter" else [1.0] * len(flat)
            if config.rule == "parameter":  # a node tells nothing of a parameter that it has no evidence on
                own = evidence_of(by_name[name], config)[key]
                theta = [t if e > 0 else p for t, e, p in zip(theta, own, flat, strict=True)]
            for i in range(len(flat)):
                above[i] += weights[dealer] * factor[i] * theta[i]
                below[i] += weights[dealer] * factor[i]
        prior = config.prior * sum(below) / len(below)
        mean = [(a + prior * p) / (b + prior) if b else p for a, b, p in zip(above, below, flat, strict=True)]
        out[key] = torch.tensor(mean, dtype=torch.float64).reshape(before.shape)
    return out
