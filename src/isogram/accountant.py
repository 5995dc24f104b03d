"""How much of epsilon the releases of a node spend together, and the noise that keeps them within a target.

A node releases two things about its private rows: once its class sums, with Gaussian noise, and at every step of a
round a sum of clipped gradients of a Poisson sample of them, with Gaussian noise (DP-SGD, Abadi et al. 2016). What it
computes from them later costs nothing. Neighbours are data sets of one node that differ in one row, added or removed;
the bound does not depend on how many rows there are: rate, steps and noise are settings, the same at all nodes.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from scipy.optimize import brentq
from scipy.stats import norm

from isogram.config import Config
from isogram.errors import ConfigError
from isogram.privacy import trains_on_rows

ORDERS = (*(1 + n / 10 for n in range(1, 100)), *range(11, 64), *(64, 96, 128, 256))
"""Of Renyi divergence that the RDP accountant looks at."""

_LEAST_NOISE, _MOST_NOISE = 1e-2, 1e6


@dataclass(frozen=True)
class Release:
    """A Gaussian mechanism of a sum that one row changes by 1 at most, on Poisson samples.

    noise: standard deviation; rate: probability of a row to be in a sample; times: that it is asked.
    """

    noise: float
    rate: float = 1.0
    times: int = 1


def epsilon_of(releases: Sequence[Release], delta: float) -> float:
    """Epsilon of all releases together, each chosen in view of those before.

    Where each row is in every sample they are one Gaussian mechanism of noise (sum times / noise^2)^-1/2, of which
    epsilon is known exactly (Dong, Roth & Su 2022, "Gaussian differential privacy", corollary 3.3; Balle & Wang 2018,
    "Improving the Gaussian mechanism", theorem 8). Else an upper bound by Opacus' RDP accountant (Mironov, Talwar &
    Zhang 2019, arXiv 1908.10530; conversion: Balle et al. 2020, arXiv 1905.09982), in which divergences add up whatever
    the noise and the rate of each release.

    Raises:
        ConfigError: Opacus is needed and not installed.
    """
    releases = [release for release in releases if release.times]
    if all(release.rate == 1 for release in releases):
        return gaussian_epsilon(math.sqrt(sum(release.times / release.noise**2 for release in releases)), delta)
    accountant = opacus("accountants").RDPAccountant()
    accountant.history = [(release.noise, release.rate, release.times) for release in releases]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best order is the last: the bound holds all the same
        return float(accountant.get_epsilon(delta, alphas=ORDERS))


def gaussian_epsilon(shift: float, delta: float) -> float:
    """Epsilon of telling N(0, 1) from N(shift, 1), exact (Balle & Wang 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        # log ndtr, because e^epsilon overflows where the other factor vanishes.
        back = math.exp(epsilon + float(norm.logcdf(-shift / 2 - epsilon / shift)))
        return float(norm.cdf(shift / 2 - epsilon / shift)) - back - delta

    if shift == 0 or excess(0.0) <= 0:
        return 0.0
    most = 1.0
    while excess(most) > 0:
        most *= 2
    return float(brentq(excess, 0, most, xtol=1e-12))


@dataclass(frozen=True)
class Budget:
    """The noise of a run and what it spends.

    head: standard deviation of the noise on class sums; step: that on a step's sum of gradients, in units of `clip`,
    None where rounds have no term of private rows; rate, steps (a round), rounds: of that term.
    """

    delta: float
    head: float
    step: float | None
    rate: float
    steps: int
    rounds: int

    def spent(self, rounds: int) -> float:
        """Epsilon of the class sums and of that many rounds."""
        releases = [Release(self.head)]
        if self.step is not None:
            releases.append(Release(self.step, self.rate, self.steps * rounds))
        return epsilon_of(releases, self.delta)

    @property
    def accountant(self) -> str:
        """By which epsilon is found."""
        exact = self.step is None or self.rate == 1
        return "exact, of the Gaussian mechanism" if exact else f"RDP of opacus {opacus('version').__version__}"


def card(config: Config, rounds: int) -> dict[str, Any]:
    """What a model says of its privacy after some rounds; {} without any."""
    budget, privacy = budget_of(config), config.privacy
    if budget is None:
        return {}
    found = {
        "epsilon": round(budget.spent(rounds), 4),
        "delta": privacy.delta,
        "unit": "one private row, its label included, at one node",
        "neighbours": "one row added or removed",
        "trusts": "the row's own node, and nobody else",
        "accountant": budget.accountant,
        "noise of class sums": round(budget.head, 6),
        "noise": "secret" if privacy.noise_seed is None else "of a known seed: no guarantee",
    }
    if budget.step is not None:
        steps = {"sampling rate": budget.rate, "steps": budget.steps * rounds, "clip": privacy.clip}
        found |= {"noise multiplier of gradients": round(budget.step, 6), **steps}
        found["opacus"] = opacus("version").__version__
    return found


def budget_of(config: Config) -> Budget | None:
    """The noise with which a run stays within `privacy.epsilon`; None where that is 0.

    Raises:
        ConfigError: Opacus is needed and not installed, or no noise is enough.
    """
    privacy, train = config.privacy, config.train
    if not privacy.epsilon:
        return None
    steps = train.steps if trains_on_rows(config) else 0
    return _budget(privacy.epsilon, privacy.delta, privacy.head_share, privacy.rate, steps, train.rounds)


@lru_cache(maxsize=64)
def _budget(epsilon: float, delta: float, share: float, rate: float, steps: int, rounds: int) -> Budget:
    target = epsilon * share if steps else epsilon
    head = _least_noise(lambda noise: epsilon_of([Release(noise)], delta) <= target)
    if not steps:
        return Budget(delta, head, None, rate, 0, rounds)

    def fits(noise: float) -> bool:
        return epsilon_of([Release(head), Release(noise, rate, steps * rounds)], delta) <= epsilon

    return Budget(delta, head, _least_noise(fits), rate, steps, rounds)


def _least_noise(fits: Callable[[float], bool]) -> float:
    low, high = _LEAST_NOISE, _MOST_NOISE
    if not fits(high):
        raise ConfigError(
            "no noise keeps within privacy.epsilon what rounds release; raise it, lower train.rounds, or spend less on "
            "class directions (privacy.head_share)"
        )
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high  # the side that fits


def opacus(module: str) -> Any:
    """A module of Opacus, by its name inside the package.

    Raises:
        ConfigError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(f"opacus.{module}")
    except ImportError as error:
        raise ConfigError(
            "privacy.epsilon with rounds needs Opacus: pip install -e '.[privacy]' in the clone, or set "
            "privacy.epsilon or train.weights.task to 0"
        ) from error
