"""Noise has the distribution that the accountant thinks of, and only its secret tells it."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch.testing import assert_close

from isogram.config import PrivacyConfig
from isogram.noise import SECRET_BYTES, Noise, secret_of

SECRET = bytes(range(SECRET_BYTES))


def test_it_is_gaussian_of_the_deviation_asked_for():
    drawn = Noise(SECRET, "a").gaussian((500, 400), 2.5, "x")
    assert drawn.shape == (500, 400) and drawn.dtype == torch.float64
    assert kstest(drawn.flatten().numpy() / 2.5, "norm").pvalue > 0.01
    assert float(drawn.std()) == pytest.approx(2.5, rel=0.01)
    # Draws beside each other have nothing to do with each other.
    assert abs(np.corrcoef(drawn[:, :-1].flatten(), drawn[:, 1:].flatten())[0, 1]) < 0.01


def test_the_same_draw_is_the_same_to_the_bit_and_any_other_is_not():
    def drawn(secret=SECRET, node="a", purpose=("round", 3, 1)):
        return Noise(secret, node).gaussian((1000,), 1.0, *purpose)

    assert_close(drawn(), drawn(), rtol=0, atol=0)
    others = [drawn(secret=bytes(SECRET_BYTES)), drawn(node="b"), drawn(purpose=("round", 3, 2))]
    others += [drawn(node='a", "round', purpose=(3, 1)), drawn(purpose=("round", 31))]
    for other in others:
        assert abs(float((drawn() * other).mean())) < 0.15


def test_a_sample_takes_each_row_by_itself():
    noise = Noise(SECRET, "a")
    samples = [noise.sample(50, 0.3, "rows", step) for step in range(2000)]
    count = torch.bincount(torch.cat(samples), minlength=50)
    assert_close(count / 2000, torch.full((50,), 0.3), atol=0.05, rtol=0)
    sizes = torch.tensor([len(rows) for rows in samples]).double()
    assert float(sizes.var()) == pytest.approx(50 * 0.3 * 0.7, rel=0.15)  # of a fixed size it would be 0
    # A row more changes nothing for the others.
    more = noise.sample(51, 0.3, "rows", 7)
    assert_close(more[more < 50], samples[7])


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_the_last_numbers_on_either_side_are_finite_too(monkeypatch, byte):
    class Stuck:
        def __init__(self, *_, **__):
            pass

        def encryptor(self):
            return self

        def update(self, data):
            return byte * len(data)

    monkeypatch.setattr("isogram.noise.Cipher", Stuck)
    drawn = Noise(SECRET, "a").gaussian((3,), 1.0, "x")
    assert drawn.isfinite().all() and 8 < float(drawn.abs().max()) < 9
    assert len(Noise(SECRET, "a").sample(3, 1.0, "x")) == 3


@pytest.mark.parametrize("wrong", [{"epsilon": np.inf}, {"epsilon": np.nan}, {"delta": 0.1}, {"delta": 0.5}])
def test_a_bound_that_bounds_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PrivacyConfig(**wrong)


def test_a_sample_may_be_empty_or_whole():
    assert len(Noise(SECRET, "a").sample(0, 0.5, "x")) == 0
    assert_close(Noise(SECRET, "a").sample(9, 1.0, "x"), torch.arange(9))


def test_a_secret_is_fresh_unless_a_seed_is_given():
    assert secret_of(PrivacyConfig()) != secret_of(PrivacyConfig()) and len(secret_of(PrivacyConfig())) == SECRET_BYTES
    assert secret_of(PrivacyConfig(noise_seed=4)) == secret_of(PrivacyConfig(noise_seed=4))
    assert secret_of(PrivacyConfig(noise_seed=4)) != secret_of(PrivacyConfig(noise_seed=5))
