"""Epsilon against published constants, against integrals, and against what a run is told to keep."""

import builtins
import math
import sys

import numpy as np
import pytest
from opacus.accountants.analysis.rdp import compute_rdp
from scipy.integrate import quad
from scipy.stats import norm

from isogram.accountant import ORDERS, Release, budget_of, card, epsilon_of, gaussian_epsilon
from isogram.config import Config, PrivacyConfig, TermWeights, TrainConfig
from isogram.errors import ConfigError

DELTA = 1e-5


def classic(release, delta=DELTA):
    """Epsilon by the conversion that the published figures use: Mironov 2017, proposition 3."""
    rdp = compute_rdp(q=release.rate, noise_multiplier=release.noise, steps=release.times, orders=ORDERS)
    return float((rdp + math.log(1 / delta) / (np.array(ORDERS) - 1)).min())


@pytest.mark.parametrize(
    ("noise", "epochs", "published"),
    [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)],
)
def test_epsilon_of_tensorflow_privacys_mnist(noise, epochs, published):
    """Its README: 60,000 images, batches of 256, delta 1e-5."""
    release = Release(noise, 256 / 60000, epochs * 60000 // 256)
    assert classic(release) == pytest.approx(published, abs=0.02)
    assert 0.7 * published < epsilon_of([release], DELTA) <= classic(release)


def test_epsilon_of_the_moments_accountant_paper():
    """Abadi et al. 2016, section 3.2: q = .01, noise 4, 10,000 steps give (1.26, 1e-5)."""
    release = Release(4.0, 0.01, 10000)
    assert classic(release) == pytest.approx(1.26, abs=0.01)
    assert 0.7 * 1.26 < epsilon_of([release], DELTA) <= classic(release)


@pytest.mark.parametrize(("epsilon", "noise"), [(1.0, 3.730632), (3.0, 1.390593), (8.0, 0.600229)])
def test_the_gaussian_mechanism_is_exact(epsilon, noise):
    """Noise of Balle & Wang's `calibrateAnalyticGaussianMechanism` at sensitivity 1; and delta as an integral."""
    assert gaussian_epsilon(1 / noise, DELTA) == pytest.approx(epsilon, abs=1e-5)
    assert epsilon_of([Release(noise)], DELTA) == pytest.approx(gaussian_epsilon(1 / noise, DELTA), rel=1e-9)
    excess = quad(
        lambda x: max(norm.pdf(x, 1, noise) - math.exp(epsilon) * norm.pdf(x, 0, noise), 0),
        0.5 + epsilon * noise**2,
        0.5 + epsilon * noise**2 + 10 * noise,
        epsabs=1e-12,
    )[0]
    assert excess == pytest.approx(DELTA, rel=1e-3)


def test_many_gaussian_mechanisms_are_one_and_rdp_bounds_them():
    releases = [Release(1.2), Release(6.0, 1.0, 32)]
    one = Release((1 / 1.2**2 + 32 / 6.0**2) ** -0.5)
    assert epsilon_of(releases, DELTA) == pytest.approx(epsilon_of([one], DELTA), rel=1e-9)
    almost = [Release(1.2), Release(6.0, 1 - 1e-9, 32)]  # goes to the other accountant
    assert epsilon_of(releases, DELTA) <= epsilon_of(almost, DELTA) < 1.15 * epsilon_of(releases, DELTA)


@pytest.mark.parametrize(("noise", "rate"), [(0.8, 0.1), (1.5, 0.3), (0.6, 0.5)])
def test_a_sampled_step_is_bounded_in_both_directions(noise, rate):
    """Delta at our epsilon, integrated: row added, and row removed."""
    epsilon = epsilon_of([Release(noise, rate)], DELTA)
    x = np.linspace(-12, 13, 2_000_001)
    without = norm.pdf(x, 0, noise)
    mixed = (1 - rate) * without + rate * norm.pdf(x, 1, noise)
    for p, q in ((mixed, without), (without, mixed)):
        assert np.trapezoid(np.clip(p - math.exp(epsilon) * q, 0, None), x) <= DELTA


def test_nothing_released_is_nothing_spent():
    assert epsilon_of([], DELTA) == 0 == epsilon_of([Release(1.0, 0.5, 0)], DELTA)
    assert gaussian_epsilon(1e-7, DELTA) == 0


def of(rounds=4, task=1.0, **privacy):
    weights = TermWeights.only(task=task, frame=1)
    return Config(train=TrainConfig(rounds=rounds, weights=weights), privacy=PrivacyConfig(**privacy))


@pytest.mark.parametrize("epsilon", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_a_budget_is_kept_and_used(epsilon, rate):
    budget = budget_of(of(epsilon=epsilon, rate=rate, head_share=0.4))
    spent = [budget.spent(rounds) for rounds in range(5)]
    assert spent == sorted(spent) and len(set(spent)) == 5
    assert 0.399 * epsilon < spent[0] <= 0.4 * epsilon
    assert 0.999 * epsilon < spent[4] <= epsilon


@pytest.mark.parametrize("nothing", [{"rounds": 0}, {"task": 0.0}])
def test_class_sums_have_all_where_rounds_release_nothing(nothing):
    budget = budget_of(of(epsilon=2, **nothing))
    assert budget.step is None
    assert 1.999 < budget.spent(0) == budget.spent(4) <= 2


def test_without_epsilon_there_is_no_budget():
    assert budget_of(Config()) is None and card(Config(), 3) == {}


def test_a_card_says_what_is_guaranteed_and_when_nothing_is():
    config = of(epsilon=3, rate=0.5)
    found = card(config, 2)
    assert found["epsilon"] == round(budget_of(config).spent(2), 4) < 3
    assert (found["delta"], found["sampling rate"], found["steps"], found["clip"]) == (1e-5, 0.5, 16, 1.0)
    assert found["noise"] == "secret" and found["opacus"].startswith("1.")
    assert "no guarantee" in card(of(epsilon=3, noise_seed=1), 2)["noise"]


def test_without_opacus_the_error_names_the_extra(monkeypatch):
    plain = builtins.__import__

    def missing(name, *rest):
        if name.startswith("opacus"):
            raise ImportError(name)
        return plain(name, *rest)

    for name in [name for name in sys.modules if name.partition(".")[0] == "opacus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.import_module", lambda name: missing(name))
    with pytest.raises(ConfigError, match=r"pip install -e '.\[privacy\]' in the clone"):
        budget_of(of(epsilon=2.34567, rate=0.3))
