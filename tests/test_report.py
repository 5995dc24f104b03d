import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from isogram import report
from isogram.bench import Row, read_rows
from isogram.errors import DataError

ROOT = Path(__file__).parents[1]


def rows(method, values, metric="r1", anchors=100, direction="a->b"):
    return [Row("tcga-brca", method, anchors, seed, metric, direction, v) for seed, v in enumerate(values)]


def test_means_and_intervals_are_those_of_scipy():
    values = [0.2, 0.5, 0.3, 0.9]
    mean = report.Mean.of(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean.mean - mean.half, mean.mean + mean.half) == pytest.approx((low, high))
    assert mean.sd == pytest.approx(np.std(values, ddof=1)) and mean.seeds == 4
    assert math.isnan(report.Mean.of([1.0]).half)


def test_gains_are_paired_over_the_seeds_that_both_have():
    results = report.Results(rows("oneshot", [0.1, 0.2, 0.9]) + rows("no-message", [0.05, 0.1]))
    gain = results.gain("tcga-brca", "oneshot", "no-message", 100, "r1")
    test = stats.ttest_rel([0.1, 0.2], [0.05, 0.1]).confidence_interval()
    assert (gain.mean - gain.half, gain.mean + gain.half) == pytest.approx((test.low, test.high))
    assert results.gain("tcga-brca", "oneshot", "paired", 100, "r1") is None


def test_directions_are_averaged_within_a_seed_first():
    results = report.Results(rows("oneshot", [0.1, 0.3]) + rows("oneshot", [0.5, 0.7], direction="b->a"))
    assert results.per_seed("tcga-brca", "oneshot", 100, "r1", None) == pytest.approx({0: 0.3, 1: 0.5})
    assert results.per_seed("tcga-brca", "oneshot", 100, "r1", "b->a") == {0: 0.5, 1: 0.7}


def test_the_spread_over_seeds_stands_beside_the_mean():
    assert report.spread(report.Mean.of([0.1, 0.3])) == ".200 (.141)" and report.spread(report.Mean.of([0.1])) == ".100"


def test_tables_follow_the_order_of_methods():
    results = report.Results(rows("paired", [0.9]) + rows("local", [0.01]) + rows("isogram@none", [0.5]))
    text = report.by_anchors(results, "tcga-brca", "r1")
    assert text.splitlines()[2:] == ["| `local` | .010 |", "| `isogram@none` | .500 |", "| `paired` | .900 |"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+.012 ± .001"), (-0.0123, "−.012 ± .001"), (1.5, "+1.500 ± .001")]
)
def test_differences_carry_sign_and_interval(value, text):
    assert report.difference(report.Mean(value, 1, 0.001, 5)) == text


def test_blocks_are_filled_and_unknown_ones_refused():
    text = "a\n<!-- table x -->\nold\n<!-- end -->\nb <!-- table y -->\n<!-- end -->\n"
    filled = report.fill(text, {"x": "new", "y": "other"})
    assert filled == "a\n<!-- table x -->\nnew\n<!-- end -->\nb <!-- table y -->\nother\n<!-- end -->\n"
    assert report.fill(filled, {"x": "new", "y": "other"}) == filled
    with pytest.raises(DataError, match="'x'"):
        report.fill(text, {"y": ""})


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_the_tables_of_the_documentation_are_those_of_the_committed_rows(name):
    results = report.Results(read_rows(sorted((ROOT / "results").glob("*.jsonl"))))
    text = (ROOT / name).read_text()
    assert "<!-- table " in text and report.fill(text, report.blocks(results)) == text


def test_the_picture_can_be_drawn_from_the_committed_rows(tmp_path):
    results = report.Results(read_rows(sorted((ROOT / "results").glob("*.jsonl"))))
    for name in ("one.svg", "two.svg"):
        report.picture(results, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
