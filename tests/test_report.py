import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from isogram.bench import Row, read_rows
from isogram.errors import DataError
from isogram.report import (
    anchor_picture,
    anchor_tables,
    doctor_tables,
    documentation,
    fault_tables,
    hostile_tables,
    tables,
)

ROOT = Path(__file__).parents[1]


def rows(method, values, metric="r1", anchors=100, direction="a->b"):
    return [Row("tcga-brca", method, anchors, seed, metric, direction, v) for seed, v in enumerate(values)]


def test_means_and_intervals_are_those_of_scipy():
    values = [0.2, 0.5, 0.3, 0.9]
    mean = tables.Mean.of(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean.mean - mean.half, mean.mean + mean.half) == pytest.approx((low, high))
    assert mean.sd == pytest.approx(np.std(values, ddof=1)) and mean.seeds == 4
    assert math.isnan(tables.Mean.of([1.0]).half)


def test_gains_are_paired_over_the_seeds_that_both_have():
    results = tables.Results(rows("oneshot", [0.1, 0.2, 0.9]) + rows("no-message", [0.05, 0.1]))
    gain = results.gain("tcga-brca", "oneshot", "no-message", 100, "r1")
    test = stats.ttest_rel([0.1, 0.2], [0.05, 0.1]).confidence_interval()
    assert (gain.mean - gain.half, gain.mean + gain.half) == pytest.approx((test.low, test.high))
    assert results.gain("tcga-brca", "oneshot", "paired", 100, "r1") is None


def test_directions_are_averaged_within_a_seed_first():
    results = tables.Results(rows("oneshot", [0.1, 0.3]) + rows("oneshot", [0.5, 0.7], direction="b->a"))
    assert results.per_seed("tcga-brca", "oneshot", 100, "r1", None) == pytest.approx({0: 0.3, 1: 0.5})
    assert results.per_seed("tcga-brca", "oneshot", 100, "r1", "b->a") == {0: 0.5, 1: 0.7}


def test_the_spread_over_seeds_stands_beside_the_mean():
    assert tables.spread(tables.Mean.of([0.1, 0.3])) == ".200 (.141)" and tables.spread(tables.Mean.of([0.1])) == ".100"


def test_methods_of_one_recipe_share_their_run_in_what_the_rows_took():
    def took(method, dataset="tcga-brca", value=60.0, seed=0):
        return Row(dataset, method, 100, seed, "seconds", "", value)

    found = [took("cka", value=60), took("cka-frame", value=61), took("cka", value=30, seed=1)]
    found += [took("isogram", value=90), took("isogram@none", value=120)]
    other = [took("isogram", "adapters:digits", 600), took("frame all", "tcga-brca", 6), *rows("oneshot", [0.5])]
    results = tables.Results(found + other)
    assert results.cells()["tcga-brca", "cka", 100, 0] == 61 and len(results.cells()) == 6
    assert tables.costs(results).splitlines()[2:] == [
        "| `tcga-brca` | 4 | 5.0 | 2.5 | 120 |",
        "| others, by `benchmarks/` | 2 | 10.1 | 5.0 | 600 |",
        "| all | 6 | 15.1 | 7.6 | 600 |",
    ]


def test_tables_follow_the_order_of_methods():
    results = tables.Results(rows("paired", [0.9]) + rows("local", [0.01]) + rows("isogram@none", [0.5]))
    text = tables.by_anchors(results, "tcga-brca", "r1")
    assert text.splitlines()[2:] == ["| `local` | .010 |", "| `isogram@none` | .500 |", "| `paired` | .900 |"]


def test_conditions_of_the_doctor_stand_beside_methods():
    assert tables.Results(rows("noise", [1.0]) + rows("paired", [0.9])).methods("tcga-brca") == ["paired", "noise"]


def test_the_doctors_shares_are_pooled_over_seeds_and_directions_with_exact_intervals():
    low, high = stats.beta.ppf([0.025, 0.975], [3, 4], [8, 7])
    assert doctor_tables.share(3, 10) == f"3 of 10 ({100 * low:.0f}–{100 * high:.0f}%)"
    found = [
        Row("doctor:machines", "noise", 25, seed, "p", direction, p)
        for direction in ("a-b", "a-c")
        for seed, p in enumerate([0.005, 0.03, 0.5])
    ] + [Row("doctor:machines", "noise", 25, seed, "refused", "", seed > 0) for seed in range(3)]
    made = doctor_tables.doctor_blocks(tables.Results(found))
    shares = [cell.split(" (")[0] for cell in made["doctor-p"].splitlines()[3].split(" | ")]
    assert shares[1:4] == ["2 of 6", "2 of 6", "4 of 6"]
    assert "2 of 3" in made["doctor-refused"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+.012 ± .001"), (-0.0123, "−.012 ± .001"), (1.5, "+1.500 ± .001")]
)
def test_differences_carry_sign_and_interval(value, text):
    assert tables.difference(tables.Mean(value, 1, 0.001, 5)) == text


def test_blocks_are_filled_and_unknown_ones_refused():
    text = "a\n<!-- table x -->\nold\n<!-- end -->\nb <!-- table y -->\n<!-- end -->\n"
    filled = documentation.fill(text, {"x": "new", "y": "other"})
    assert filled == "a\n<!-- table x -->\nnew\n<!-- end -->\nb <!-- table y -->\nother\n<!-- end -->\n"
    assert documentation.fill(filled, {"x": "new", "y": "other"}) == filled
    with pytest.raises(DataError, match="'x'"):
        documentation.fill(text, {"y": ""})


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/results.md",
        "docs/doctor.md",
        "docs/adapters.md",
        "docs/anchors.md",
        "docs/anchor-sets.md",
        "docs/deploy.md",
        "docs/privacy.md",
    ],
)
def test_the_tables_of_the_documentation_are_those_of_the_committed_rows(name):
    results = tables.Results(read_rows(sorted((ROOT / "results").glob("*.jsonl"))))
    text = (ROOT / name).read_text()
    assert "<!-- table " in text and documentation.fill(text, documentation.blocks(results)) == text


@pytest.mark.parametrize("name", ["results", "anchors"])
def test_the_pictures_can_be_drawn_from_the_committed_rows(tmp_path, name):
    results = tables.Results(read_rows(sorted((ROOT / "results").glob("*.jsonl"))))
    drawn = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        documentation.picture(results, path := tmp_path / folder / f"{name}.svg")
        drawn.append(path.read_text())
    ElementTree.fromstring(drawn[0])
    assert drawn[0] == drawn[1]


def test_curves_of_anchors_follow_the_reader_and_name_every_line(tmp_path):
    results = tables.Results(read_rows([ROOT / "results" / f"{name}.jsonl" for name in ("anchors", "tcga-brca")]))
    documentation.picture(results, path := tmp_path / "anchors.svg")
    text = path.read_text()
    assert "prefers-color-scheme: dark" in text and anchor_picture._INK not in text.split("</style>")[1]
    for name in ("robust", "oneshot-hsic", "closed-form", "closed-form robust", "no-message"):
        assert text.count(f">{name}</text>") == 6  # count, missing, wrong, wrong in RNA; of pictures count and wrong
    assert text.count(">relative</text>") == 4  # not of pictures
    assert text.count(">told</text>") == 3


def test_names_of_lines_that_end_together_keep_apart():
    """Names move as little as their distance asks for: two about the middle of their ends, others stay."""
    gap = anchor_picture._GAP
    assert anchor_picture._spread([0.5, 0.5, 0.9]) == pytest.approx([0.5 - gap / 2, 0.5 + gap / 2, 0.9])
    crowded = anchor_picture._spread([0.01, 0.02, 0.02, 0.1])
    assert crowded[0] >= 0 and min(np.diff(crowded)) > gap - 1e-9


def test_a_gain_between_settings_is_paired_by_seed():
    found = [
        Row(f"tcga-brca:{setting}", "oneshot-hsic", 100, seed, "r1", "a->b", value)
        for setting, values in (("replaced 25%", [0.2, 0.5, 0.4]), ("dropped 25%", [0.1, 0.3]))
        for seed, value in enumerate(values)
    ]
    assert "(+.150 ±" in anchor_tables.anchor_blocks(tables.Results(found))["anchors-instead"]


def test_what_hostile_nodes_cost_is_paired_with_the_federation_where_nobody_lies():
    def made(attack, option, values, metric="r1", direction="a->b"):
        return [Row(f"tcga-brca:{attack}", option, 100, s, metric, direction, v) for s, v in enumerate(values)]

    found = made("honest", "plain", [0.5, 0.7]) + made("scaled", "plain", [0.1, 0.3])
    found += made("scaled", "median", [0.5, 0.6, 0.9]) + made("absent", "plain", [0.4, 0.6])
    found += made("anchors", "median", [3, 2], "caught", "") + made("anchors", "median", [0, 1], "blamed", "")
    blocks = hostile_tables.hostile_blocks(tables.Results(found))
    lines = blocks["hostile-tcga-brca-r1"].splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["nobody lies"][0] == ".600"
    assert cells["updates x 100, all rows claimed"][0].startswith("−.400")
    assert cells["updates x 100, all rows claimed"][2].startswith("−.050 ± ")
    assert cells["the hostile third absent"] == [cells["the hostile third absent"][0], "", "", ""]
    assert cells["the hostile third absent"][0].startswith("−.100")
    assert "| anchors permuted | 2.5 | 0.5 |" in blocks["hostile-left-out"]


def test_faults_are_counted_by_how_their_runs_ended():
    def made(number, ended, seconds, absent, **more):
        values = {"took": seconds, "bound": 270.0, "rounds_lost": 0.0, "absent": absent, **more}
        rows = [Row("faults:node", "deployed", 0, number, metric, "", value) for metric, value in values.items()]
        return [*rows, Row("faults:node", "deployed", 0, number, "ended", ended, 1.0)]

    found = [
        *made(0, "model", 50.2, 1.0, same=0.0),
        *made(1, "error", 12.0, 0.0),
        *made(2, "model", 70.0, 0.0, same=1.0),
    ]
    (_, _, line) = fault_tables.fault_blocks(tables.Results(found))["faults"].splitlines()
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [
        "a model (2), an error (1)",
        "12–70 s of 270 s",
        "0",
        "1 of 1",
    ]


def test_means_of_a_line_are_over_the_seeds_that_all_its_points_have():
    """A point of more seeds is not shown beside others of fewer; the line says how many there are."""
    found = [
        Row(f"pictures:{setting}", "closed-form", 100, seed, "r10", "a->b", value)
        for setting, values in (("wrong 0%", [0.2, 0.4, 0.9]), ("wrong 10%", [0.1, 0.2]))
        for seed, value in enumerate(values)
    ]
    table = anchor_tables.anchor_blocks(tables.Results(found))["anchors-wrong-pictures"]
    assert table.splitlines()[2] == "| `closed-form`, 2 seeds | .300 | .150 | – | – | – |"


def test_a_method_stands_by_direction_beside_others_and_their_paired_difference():
    values = {("a->b", "m"): (0.5, 0.7), ("a->b", "n"): (0.4, 0.4)}
    values |= {("b->a", "m"): (0.1, 0.1), ("b->a", "n"): (0.2, 0.2)}
    rows = [
        Row("d", method, 9, seed, "r1", direction, value)
        for (direction, method), found in values.items()
        for seed, value in enumerate(found)
    ]
    text = tables.by_direction(tables.Results(rows), "d", 9, "r1", "m", ("n",)).splitlines()
    assert text[2:] == [
        "| mean | .350 | +.050 ± .635 |",
        "| a->b | .600 | +.200 ± 1.271 |",
        "| b->a | .100 | −.100 ± .000 |",
    ]
