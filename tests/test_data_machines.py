import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score

from isogram.data import machines
from isogram.data.base import UNLABELLED, evaluation
from isogram.data.machines import (
    BEARING,
    BEARING_ORDER,
    CAVITATION,
    IMBALANCE,
    LOG_ONLY,
    LOOSENESS,
    MISALIGNMENT,
    N_SAMPLES,
    NORMAL,
    SAMPLE_RATE,
    STATES,
    Moment,
    load_machines,
    log_tokens,
    simulate,
    vibration,
    vibration_tokens,
    write_log,
)
from isogram.errors import ConfigError, HeldOutError

FREQUENCY = np.fft.rfftfreq(N_SAMPLES, 1 / SAMPLE_RATE)


@pytest.fixture(scope="module")
def data():
    return load_machines(anchors=40, seed=3)


@pytest.fixture(scope="module")
def truth():
    """The held-out, sensed and logged moments behind `data`."""
    rng = np.random.default_rng(3)
    return simulate(300, rng), simulate(400, rng), simulate(400, rng)


def everything(data, modality):
    private = next(node.tokens for node in data.nodes if node.modality == modality)
    with evaluation():
        return private, data.anchors.items[modality].tokens, data.held_out.tokens(modality)


def power(window):
    return np.abs(np.fft.rfft(window * np.hanning(N_SAMPLES))) ** 2


def near(spectrum, hertz, width=2.0):
    return spectrum[np.abs(FREQUENCY - hertz) <= width].sum()


def moments(state, n=40, severity=0.8):
    rng = np.random.default_rng(state)
    for _ in range(n):
        yield Moment(state, rng.uniform(18, 32), rng.uniform(), severity, 50.0), rng


def test_shapes_and_names(data):
    assert [(n.name, n.modality, n.tokens.shape) for n in data.nodes] == [
        ("vibration", "vibration", (400, 4, 48)),
        ("log", "log", (400, 8, 96)),
    ]
    assert data.classes == STATES and len(data.anchors) == len(set(data.anchors.ids)) == 40
    assert data.held_out.paired
    for modality in data.modalities:
        assert [len(rows) for rows in everything(data, modality)] == [400, 40, 300]


def test_the_sensor_labels_all_but_the_log_only_states(data, truth):
    _, sensed, logged = truth
    vibration_node, log_node = data.nodes
    np.testing.assert_array_equal(log_node.labels, logged.state)
    assert log_node.classes == tuple(range(6))
    hidden = vibration_node.labels == UNLABELLED
    np.testing.assert_array_equal(hidden, np.isin(sensed.state, LOG_ONLY))
    np.testing.assert_array_equal(vibration_node.labels[~hidden], sensed.state[~hidden])
    assert set(sensed.state[hidden]) == set(LOG_ONLY)


def test_tokens_are_those_of_the_simulated_moments(data, truth):
    held_out, sensed, logged = truth
    np.testing.assert_array_equal(data.nodes[0].tokens, vibration_tokens(sensed))
    np.testing.assert_array_equal(data.nodes[1].tokens, log_tokens(logged))
    with evaluation():
        np.testing.assert_array_equal(data.held_out.tokens("vibration"), vibration_tokens(held_out))
        np.testing.assert_array_equal(data.held_out.tokens("log"), log_tokens(held_out))
        for modality in data.modalities:
            np.testing.assert_array_equal(data.held_out.labels(modality), held_out.state)


def test_no_vibration_window_is_in_two_splits(data):
    # Logs are made of few phrases and may repeat, as real ones do; a window never does.
    rows = [row.tobytes() for part in everything(data, "vibration") for row in part]
    assert len(set(rows)) == len(rows) == 740


def test_held_out_rows_are_sealed(data):
    for read in (data.held_out.tokens, data.held_out.labels):
        with pytest.raises(HeldOutError):
            read("log")


def test_fewer_anchors_are_a_prefix_and_change_nothing_else(data):
    fewer = load_machines(anchors=7, seed=3)
    assert fewer.anchors.ids == data.anchors.ids[:7]
    for modality in data.modalities:
        private, anchors, held_out = everything(data, modality)
        private7, anchors7, held_out7 = everything(fewer, modality)
        np.testing.assert_array_equal(anchors7, anchors[:7])
        np.testing.assert_array_equal(private7, private)
        np.testing.assert_array_equal(held_out7, held_out)


def test_the_seed_decides_everything(data):
    again, other = load_machines(anchors=40, seed=3), load_machines(anchors=40, seed=4)
    assert again.anchors.hash == data.anchors.hash != other.anchors.hash
    for modality in data.modalities:
        for same, part, different in zip(
            everything(again, modality), everything(data, modality), everything(other, modality), strict=True
        ):
            np.testing.assert_array_equal(same, part)
            assert (different != part).any()


def test_too_few_anchors_are_refused():
    with pytest.raises(ConfigError):
        load_machines(anchors=1, seed=0)


def test_imbalance_stands_at_the_shaft_speed():
    for moment, rng in moments(IMBALANCE):
        peak = FREQUENCY[power(vibration(moment, rng)).argmax()]
        assert abs(peak - moment.speed) <= 1


def test_misalignment_stands_at_twice_the_shaft_speed():
    ratios = []
    for moment, rng in moments(MISALIGNMENT):
        spectrum = power(vibration(moment, rng))
        ratios.append(near(spectrum, 2 * moment.speed) / near(spectrum, moment.speed))
    assert np.median(ratios) > 3


def test_looseness_has_half_orders():
    def half_orders(state):
        return np.median([near(power(vibration(m, rng)), 1.5 * m.speed) for m, rng in moments(state)])

    assert half_orders(LOOSENESS) > 20 * half_orders(NORMAL)


def test_bearing_bursts_repeat_at_the_bearing_order():
    errors = []
    for moment, rng in moments(BEARING, severity=1.0):
        spectrum = np.fft.fft(vibration(moment, rng))
        spectrum[np.abs(np.fft.fftfreq(N_SAMPLES, 1 / SAMPLE_RATE) - 620) > 200] = 0
        # Demodulation: the band around the resonance, positive frequencies only, has the bursts as its envelope.
        envelope = power(np.abs(np.fft.ifft(spectrum)) ** 2)
        orders = FREQUENCY / moment.speed
        searched = (orders > 2.2) & (orders < 5)  # beyond the load zone's own order of 1
        errors.append(abs(orders[searched][envelope[searched].argmax()] - BEARING_ORDER))
    assert np.median(errors) < 0.1


def test_cavitation_is_broadband_above_the_shaft_lines():
    def high(state):
        return np.median([power(vibration(m, rng))[FREQUENCY > 300].sum() for m, rng in moments(state)])

    assert high(CAVITATION) > 3 * high(NORMAL)


def test_a_window_tells_its_moment_but_not_its_phase():
    rng = np.random.default_rng(0)
    moment = Moment(IMBALANCE, 25.0, 0.5, 1.0, 50.0)
    windows = np.array([vibration(moment, rng) for _ in range(200)])
    correlation = np.corrcoef(windows)[np.triu_indices(200, 1)]
    assert abs(correlation.mean()) < 0.05 and correlation.std() > 0.3  # one strong line with a phase of its own


def test_a_log_varies_given_its_moment():
    rng = np.random.default_rng(0)
    moment = Moment(CAVITATION, 25.0, 0.5, 1.0, 50.0)
    logs = {write_log(moment, rng) for _ in range(50)}
    assert len(logs) == 50


@pytest.mark.parametrize(("field", "line"), [("speed", 0), ("load", 1), ("temperature", 2)])
def test_level_words_follow_the_truth(truth, field, line):
    words = (machines._SPEED_WORDS, machines._LOAD_WORDS, machines._HEAT_WORDS)[line]
    logged = truth[2]
    level = [next(i for i, group in enumerate(words) if log[line].endswith(group)) for log in logged.lines]
    assert np.corrcoef(level, getattr(logged, field))[0, 1] > 0.7


def test_no_line_names_a_state():
    rng = np.random.default_rng(0)
    stems = ("normal", "imbalance", "balance", "align", "bearing", "fault", "cavit", "loose")
    assert all(any(stem in state for stem in stems) for state in STATES)
    lines = {line for state in range(6) for m, _ in moments(state, 300) for line in write_log(m, rng)}
    assert len(lines) > 60
    assert not [line for line in lines for stem in stems if stem in line]


@pytest.mark.parametrize("node", [0, 1])
def test_states_can_be_told_from_tokens_but_not_read_off(data, truth, node):
    held_out, *private = truth
    with evaluation():
        rows = data.held_out.tokens(data.nodes[node].modality)
    train, test = (x.reshape(len(x), -1) for x in (data.nodes[node].tokens, rows))
    scale = train.std(0) + 1e-6
    model = RidgeClassifier(300.0, class_weight="balanced").fit(train / scale, private[node].state)
    assert 0.85 < balanced_accuracy_score(held_out.state, model.predict(test / scale)) < 0.985
