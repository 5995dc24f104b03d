"""Two silos of one fleet of pumps: a vibration sensor and the operators' shift log, simulated from one hidden state.

The physics follows the textbook signatures (Randall, Vibration-based Condition Monitoring, 2011): imbalance is a
line at shaft speed that grows with its square, misalignment lines at two and three times it, a bearing fault a train
of ringing bursts in the load zone, cavitation broadband noise, looseness half-orders and many harmonics. The log is
what people write: levels in words, symptoms in words that several states share, and chatter. Given the machine's
moment the two are independent, so whatever connects them goes through that moment.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isogram.data.base import (
    UNLABELLED,
    AnchorItems,
    AnchorSet,
    FederatedData,
    FloatArray,
    HeldOut,
    IntArray,
    NodeData,
)
from isogram.data.tokens import hashed_lines, spectral_frames
from isogram.errors import ConfigError

STATES = ("normal", "imbalance", "misalignment", "bearing-fault", "cavitation", "looseness")
NORMAL, IMBALANCE, MISALIGNMENT, BEARING, CAVITATION, LOOSENESS = range(len(STATES))
LOG_ONLY = (CAVITATION, LOOSENESS)
"""States that only the log node labels: the vibration node holds their rows unlabelled."""

SAMPLE_RATE = 2048
N_SAMPLES = 2048
BEARING_ORDER = 3.58
"""Bursts per shaft turn of an outer-race fault: no integer, which is what tells it from a harmonic."""

_PRIOR = np.array([0.25, 0.15, 0.15, 0.15, 0.15, 0.15])
_RESONANCE = 620.0
HELD_OUT_ROWS = 300
_PRIVATE_ROWS = 400
_N_FRAMES, _N_BANDS, _LINE_WIDTH = 4, 48, 96


@dataclass(frozen=True)
class Machines:
    """n machine moments with the hidden truth beside what is seen of it.

    state [n]; speed [n] of the shaft in hertz; load, severity [n] in [0, 1]; temperature [n] in degrees Celsius;
    windows [n, N_SAMPLES] float32; lines: n logs of 8 lines.
    """

    state: IntArray
    speed: NDArray[np.float64]
    load: NDArray[np.float64]
    severity: NDArray[np.float64]
    temperature: NDArray[np.float64]
    windows: FloatArray
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Moment:
    """One machine at one time: all that vibration and log have in common."""

    state: int
    speed: float
    load: float
    severity: float
    temperature: float


def load_machines(*, anchors: int, seed: int) -> FederatedData:
    """Nodes "vibration" and "log" with 400 private rows each of different moments, and 300 held-out pairs.

    The log node labels every state, the vibration node all but `LOG_ONLY`. Anchors are drawn last and one by one, so
    a smaller anchor set is a prefix of a larger one and nothing else depends on their number.
    """
    check_anchors(anchors)
    rng = np.random.default_rng(seed)
    held_out = simulate(HELD_OUT_ROWS, rng)
    sensed, logged = simulate(_PRIVATE_ROWS, rng), simulate(_PRIVATE_ROWS, rng)
    heard = np.where(np.isin(sensed.state, LOG_ONLY), UNLABELLED, sensed.state)
    nodes = (
        NodeData("vibration", "vibration", vibration_tokens(sensed), heard),
        NodeData("log", "log", log_tokens(logged), logged.state),
    )
    return federate(
        "machines", nodes, {"vibration": sensed, "log": logged}, shared=simulate(anchors, rng), held_out=held_out
    )


def check_anchors(anchors: int) -> None:
    """Raises ConfigError where there are too few for an alignment."""
    if anchors < 2:
        raise ConfigError(f"anchors={anchors}: an alignment needs at least 2; choose 50 or more")


def federate(
    name: str,
    nodes: tuple[NodeData, ...],
    moments: Mapping[str, Machines],
    *,
    shared: Machines,
    held_out: Machines,
) -> FederatedData:
    """The federation of nodes whose rows are of `moments` (by node), with `shared` as public anchors."""

    def anchor_set(parts: Sequence[Machines]) -> AnchorSet:
        n = sum(len(part.state) for part in parts)
        position, quality = np.arange(n), np.ones(n, np.float32)
        return AnchorSet(
            tuple(f"machine-moment-{i:03d}" for i in range(n)),
            {
                modality: AnchorItems(position, np.concatenate([read(part) for part in parts]), quality)
                for modality, read in TOKENIZERS.items()
            },
        )

    return FederatedData(
        name=name,
        nodes=nodes,
        anchors=anchor_set([shared]),
        held_out=HeldOut(
            {modality: read(held_out) for modality, read in TOKENIZERS.items()},
            dict.fromkeys(TOKENIZERS, held_out.state),
            paired=True,
            private={node: part.state for node, part in moments.items()},
            anchors=shared.state,
        ),
        classes=STATES,
        all_paired=lambda: anchor_set([shared, *moments.values()]),
    )


def vibration_tokens(machines: Machines) -> FloatArray:
    """[n, 4, 48]: log-spectra of four half-overlapping frames."""
    return spectral_frames(machines.windows, _N_FRAMES, _N_BANDS)


def log_tokens(machines: Machines) -> FloatArray:
    """[n, 8, 96]: one hashed token per line."""
    return hashed_lines(machines.lines, _LINE_WIDTH)


TOKENIZERS: dict[str, Callable[[Machines], FloatArray]] = {"vibration": vibration_tokens, "log": log_tokens}


def simulate(n: int, rng: np.random.Generator, states: Sequence[int] = range(len(STATES))) -> Machines:
    """N independent machine moments, drawn one after the other: the first m of n are the same for any n >= m.

    states: those that occur, in the proportions that they have in the whole fleet.
    """
    prior = np.where(np.isin(np.arange(len(STATES)), states), _PRIOR, 0)
    moments, windows, lines = [], [], []
    for _ in range(n):
        moment = draw_moment(rng, prior / prior.sum())
        moments.append(moment)
        windows.append(vibration(moment, rng))
        lines.append(write_log(moment, rng))
    return Machines(
        state=np.array([m.state for m in moments], np.int64),
        speed=np.array([m.speed for m in moments]),
        load=np.array([m.load for m in moments]),
        severity=np.array([m.severity for m in moments]),
        temperature=np.array([m.temperature for m in moments]),
        windows=np.array(windows, np.float32),
        lines=tuple(lines),
    )


def draw_moment(rng: np.random.Generator, prior: NDArray[np.float64] = _PRIOR) -> Moment:
    """State, operating point and how far the fault has gone; heat follows from load and, in some states, friction."""
    state = int(rng.choice(len(STATES), p=prior))
    speed, load, severity = rng.uniform(18, 32), rng.uniform(), rng.uniform()
    friction = {BEARING: 14.0, MISALIGNMENT: 8.0}.get(state, 0.0)
    temperature = 38 + 18 * load + friction * severity + rng.normal(0, 3)
    return Moment(state, speed, load, severity, temperature)


def vibration(moment: Moment, rng: np.random.Generator) -> NDArray[np.float64]:
    """One second [N_SAMPLES] at the bearing housing. Phases, noise and small shaft lines are drawn afresh each time."""
    time = np.arange(N_SAMPLES) / SAMPLE_RATE
    speed, state = moment.speed, moment.state
    # Even a fault just begun is there: a severity of zero is its threshold of detection, not its absence.
    fault = 0.4 + 0.6 * moment.severity

    # Every machine has some of every line; a fault shows as one line standing out from that background.
    orders = {0.5: 0.02, 1.0: 0.25, 1.5: 0.02, 2.0: 0.12, 2.5: 0.02, 3.0: 0.06, 4.0: 0.04, 5.0: 0.03}
    lines = {order: amplitude * rng.lognormal(0, 0.4) for order, amplitude in orders.items()}
    if state == IMBALANCE:
        lines[1.0] += 1.4 * fault * (speed / 25) ** 2
    if state == MISALIGNMENT:
        lines[2.0] += 0.9 * fault * (0.6 + 0.6 * moment.load)
        lines[3.0] += 0.4 * fault
    if state == LOOSENESS:
        for order, amplitude in {0.5: 0.35, 1.0: 0.3, 1.5: 0.3, 2.5: 0.2, 3.0: 0.2, 4.0: 0.2, 5.0: 0.15}.items():
            lines[order] += amplitude * fault * rng.lognormal(0, 0.3)
    signal = sum(a * np.sin(2 * np.pi * order * speed * time + rng.uniform(0, 2 * np.pi)) for order, a in lines.items())

    if state == BEARING:
        signal = signal + 1.2 * fault * _bursts(time, speed, rng)
    hiss = 0.05 + 0.05 * moment.load
    if state == CAVITATION:
        signal = signal + 0.35 * fault * (0.5 + 0.5 * moment.load) * _rumble(rng)
    # The gain of the mounting differs from one measuring point to the next.
    return rng.lognormal(0, 0.25) * (signal + hiss * rng.normal(size=N_SAMPLES))


def _bursts(time: NDArray[np.float64], speed: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Ringing of the housing at each passage of a ball, louder in the load zone, with the balls' usual slip."""
    period = 1 / (BEARING_ORDER * speed)
    signal = np.zeros_like(time)
    start = rng.uniform(0, period)
    while start < time[-1]:
        since = time - start
        loudness = 1 + 0.6 * np.cos(2 * np.pi * speed * start)
        # exp of a clipped argument: before the burst it is switched off by the comparison.
        signal += loudness * (since >= 0) * np.exp(-300 * np.maximum(since, 0)) * np.sin(2 * np.pi * _RESONANCE * since)
        start += period * rng.normal(1, 0.02)
    return signal


def _rumble(rng: np.random.Generator) -> NDArray[np.float64]:
    """Collapsing bubbles: unit-variance noise above 250 Hz."""
    spectrum = np.fft.rfft(rng.normal(size=N_SAMPLES))
    spectrum[np.fft.rfftfreq(N_SAMPLES, 1 / SAMPLE_RATE) < 250] = 0
    noise = np.fft.irfft(spectrum, N_SAMPLES)
    return np.asarray(noise / noise.std())


_SPEED_WORDS = (
    ("slow", "low rpm", "crawling"),
    ("moderate", "medium rpm", "steady pace"),
    ("fast", "high rpm", "racing"),
)
_LOAD_WORDS = (("light", "barely loaded", "idle"), ("half", "partial", "average"), ("heavy", "full", "near maximum"))
_HEAT_WORDS = (("cool", "cold to touch"), ("warm", "usual warmth"), ("hot", "too hot to touch", "overheating"))
_SPEED_LINES = ("shaft running {}", "drive speed {}", "unit turning {}")
_LOAD_LINES = ("load {}", "throughput {}", "demand on the unit {}")
_HEAT_LINES = ("casing {}", "housing feels {}", "temperature {}")

_REMARKS = (
    (
        "running smoothly",
        "nothing unusual to report",
        "quiet and smooth all shift",
        "all readings as usual",
    ),
    (
        "heavy throb from the rotor",
        "rotor shakes once per turn",
        "dirt caked on the rotor blades",
        "throb grows when sped up",
    ),
    (
        "coupling rubber wearing unevenly",
        "double beat near the coupling",
        "coupling guard warm",
        "shims moved and double beat heard",
    ),
    (
        "clicking from the drive end",
        "grinding and clicking with the shaft",
        "grease dark with metal flakes",
        "drive end ringing and grinding",
    ),
    (
        "sounds like gravel at the inlet",
        "hissing and crackling at the inlet",
        "suction gauge jumping about",
        "crackling and suction pressure drops",
    ),
    (
        "foot bolt turned by hand",
        "knocks from the baseplate",
        "gap under one foot of the baseplate",
        "bolt missing and knocks heard",
    ),
)
_VAGUE = (
    "some vibration noticed",
    "noise a bit different today",
    "shakes more than last week",
    "operator asked for a check",
    "rattles now and then",
    "vibration felt at the guard",
    "louder than the neighbour unit",
    "keep an eye on it",
)
_CHATTER = (
    "shift handed over on time",
    "floor cleaned around the unit",
    "forklift blocked the aisle",
    "visitors on the gallery",
    "coffee machine broken again",
    "new gloves delivered",
    "paperwork filed",
    "radio check done",
    "light bulb replaced",
    "fire drill at noon",
    "spare parts ordered",
    "door left open by contractors",
)


def write_log(moment: Moment, rng: np.random.Generator) -> tuple[str, ...]:
    """8 lines of a shift form: speed, load, heat, three remarks, two lines of chatter. No line names the state."""
    return (
        _level_line(_SPEED_LINES, _SPEED_WORDS, (moment.speed - 18) / 14, rng),
        _level_line(_LOAD_LINES, _LOAD_WORDS, moment.load, rng),
        _level_line(_HEAT_LINES, _HEAT_WORDS, (moment.temperature - 38) / 28, rng),
        *(_remark(moment, rng) for _ in range(3)),
        *(str(rng.choice(_CHATTER)) for _ in range(2)),
    )


def _level_line(
    templates: tuple[str, ...], words: tuple[tuple[str, ...], ...], level: float, rng: np.random.Generator
) -> str:
    """A quantity in [0, 1] as a person puts it: the bounds between the words are theirs, not fixed."""
    judged = np.clip(level + rng.normal(0, 0.1), 0, 0.999)
    return str(rng.choice(templates)).format(rng.choice(words[int(judged * len(words))]))


def _remark(moment: Moment, rng: np.random.Generator) -> str:
    """A symptom of the state, the likelier the worse it is; else a vague remark, or one that fits another state."""
    luck = rng.uniform()
    if luck < 0.6 + 0.3 * moment.severity:
        return str(rng.choice(_REMARKS[moment.state]))
    if luck < 0.94:
        return str(rng.choice(_VAGUE))
    return str(rng.choice(_REMARKS[rng.integers(len(STATES))]))
