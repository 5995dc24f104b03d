"""`isogram anchors`: an anchor set looked at by itself, its hash, and synthetic items, as people ask for them."""

import json
import shutil

import numpy as np
import pytest
from anchor_sets import edit, put, read_rows, write_anchor_set, write_rows
from PIL import Image
from typer.testing import CliRunner

from isogram.cli import app
from isogram.config_file import read_config
from isogram.data.anchor_set import hash_anchor_set
from isogram.doctor.anchor_check import check_anchor_set, warnings

N = 40


def anchors(*words):
    return CliRunner().invoke(app, ["anchors", *map(str, words)], env={"COLUMNS": "120"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_anchor_set(tmp_path_factory.mktemp("sets") / "set", N, columns=("photo", "call", "lab"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")


def said(report):
    return [f"{finding.where}: {finding.what}" for finding in warnings(report)]


def test_a_good_set_is_usable_and_its_modalities_are_related(whole):
    report = check_anchor_set(whole)
    assert report.errors == () and report.concepts == N and report.hash == hash_anchor_set(whole)
    assert {(a, b): n for a, b, n in report.common} == {
        ("photo", "call"): N, ("photo", "lab"): N, ("call", "lab"): N
    }  # fmt: skip
    assert [(one.kind, one.items, one.synthetic, one.unlicensed) for one in report.held] == [
        ("image", N, 0, 0), ("audio", N, 0, 0), ("table", N, 0, 0)
    ]  # fmt: skip
    assert report.diagnosis.ok and {pair.verdict for pair in report.diagnosis.pairs} == {"aligned"}
    done = anchors("check", whole)
    assert done.exit_code == 0 and "this set can be used" in done.output and "photo – lab: 40 concepts" in done.output


def test_what_is_missing_unlicensed_or_unexplained_is_told(folder):
    edit(folder, put(0, licence="", photo=""))
    edit(folder, put(1, quality__call="0.5", provenance__call="", provenance=""))
    report = check_anchor_set(folder)
    assert report.errors == () and report.common[0] == ("photo", "call", N - 1)
    told = "\n".join(said(report))
    assert "call: 1 of 40 items have no licence" in told and "photo: 1 of 39" not in told
    assert "call: of 1 synthetic items (quality below 1) nothing says" in told
    assert next(one for one in report.held if one.modality == "call").synthetic == 1


def test_items_that_cannot_be_read_are_all_named(folder):
    rows = read_rows(folder / "anchors.csv")
    for row in (3, 7):
        (folder / rows[row]["photo"]).write_bytes(b"no picture")
    done = anchors("check", folder, "--json")
    assert done.exit_code == 2
    report = json.loads(done.stdout)
    assert len(report["errors"]) == 2 and all("column 'photo'" in line for line in report["errors"])
    assert [len(one["unreadable"]) for one in report["held"]] == [2, 0, 0]
    assert report["errors"][1].endswith("; --skip-bad leaves such items out") and "left out: " not in done.stderr
    assert [pair[2] for pair in report["common"]] == [N - 2, N - 2, N]
    assert report["diagnosis"]["pairs"], "of the others all is said"


def test_items_that_cannot_be_read_are_left_out_and_named_on_request(folder):
    rows = read_rows(folder / "anchors.csv")
    (folder / rows[3]["photo"]).write_bytes(b"no picture")
    done = anchors("check", folder, "--skip-bad")
    assert done.exit_code == 0 and "this set can be used" in done.stdout and "column 'photo'" not in done.stdout
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert "line 5, column 'photo'" in said
    settings = folder.parent / "a.toml"
    settings.write_text(f'data = "silos"\n[silos]\nanchors = "{folder}"\nskip_bad = true\n')
    nodes = "".join(f'[[silos.nodes]]\nname = "{m}"\nmodality = "{m}"\ndata = "x"\n' for m in ("photo", "call", "lab"))
    kinds = "".join(
        f'[silos.modalities.{m}]\nkind = "{k}"\n' for m, k in (("photo", "image"), ("call", "audio"), ("lab", "table"))
    )
    settings.write_text(settings.read_text() + nodes + kinds)
    assert anchors("check", folder, settings).exit_code == 0, "as the settings say"
    for row in rows:
        (folder / row["photo"]).write_bytes(b"no picture")
    done = anchors("check", folder, "--skip-bad")
    assert done.exit_code == 2 and "column 'photo'" in done.output, "nothing of the modality is left"


def test_the_same_picture_and_nearly_the_same_are_told_apart(folder):
    rows = read_rows(folder / "anchors.csv")
    shutil.copy(folder / rows[0]["photo"], folder / rows[1]["photo"])
    with Image.open(folder / rows[2]["photo"]) as image:
        image.resize((44, 44)).save(folder / rows[3]["photo"])
    for row in (5, 6, 7):  # copies of one of the two do not hide them
        shutil.copy(folder / rows[2]["photo"], folder / rows[row]["photo"])
    report = check_anchor_set(folder)
    assert ("photo", "c00", "c01") in report.diagnosis.duplicates
    assert ("photo", "c02", "c03") in report.near and ("photo", "c00", "c01") not in report.near
    assert any("than to any third item are c02 = c03" in line for line in said(report))


def test_items_of_the_wrong_concept_are_suspects(tmp_path):
    """Numbers of two laboratories, each its own mixture of the same thirty."""
    draw = np.random.default_rng(0)
    hidden, names = draw.normal(size=(150, 30)), [f"c{i:02}" for i in range(150)]
    write_rows(tmp_path / "anchors.csv", [{"concept": name, "licence": "CC0"} for name in names])

    def write(lab, values):
        write_rows(tmp_path / f"{lab}.csv", [{"concept": n} | {f"x{j}": x for j, x in enumerate(v)} for n, v in values])

    mixed = [hidden @ draw.normal(size=(30, 60)) for _ in range(2)]
    for lab, values in zip(("north", "south"), mixed, strict=True):
        write(lab, zip(names, values.tolist(), strict=True))
    assert not check_anchor_set(tmp_path).diagnosis.suspects
    mixed[1][[10, 20, 30]] = mixed[1][[20, 30, 10]]
    write("south", zip(names, mixed[1].tolist(), strict=True))
    report = check_anchor_set(tmp_path)
    assert {one.anchor for one in report.diagnosis.suspects} == {"c10", "c20", "c30"}
    assert any("c10" in line for line in said(report))


def test_a_set_of_one_modality_or_without_common_concepts_cannot_be_used(tmp_path):
    one = write_anchor_set(tmp_path / "one", 12, columns=("photo",))
    done = anchors("check", one)
    assert done.exit_code == 2 and "fewer than two modalities" in done.output
    apart = write_anchor_set(tmp_path / "apart", 24, columns=("photo", "call"))

    def halves(rows):
        return [row | ({"photo": ""} if i % 2 else {"call": ""}) for i, row in enumerate(rows)]

    edit(apart, halves)
    done = anchors("check", apart)
    assert done.exit_code == 2 and "groups without a common anchor" in done.output


def test_three_concepts_in_common_are_too_few_unless_a_third_modality_bridges(folder):
    def few(rows):
        return [row | ({"photo": ""} if i > 20 else {"call": ""} if i < 18 else {}) for i, row in enumerate(rows)]

    edit(folder, few)
    assert check_anchor_set(folder).errors == (), "lab holds all"
    (folder / "lab.csv").unlink()
    (error,) = check_anchor_set(folder).errors
    assert "photo and call have 3 concepts in common, and no other modality bridges them" in error
    assert anchors("check", folder).exit_code == 2


def test_concepts_of_one_modality_alone_are_named(folder):
    assert check_anchor_set(folder).alone == ()
    edit(folder, put(3, photo="", call=""))
    report = check_anchor_set(folder)
    assert report.alone == ("c03",) and report.errors == ()
    assert "concepts: in one modality alone, where they connect nothing: c03" in said(report)


def test_too_few_concepts_to_measure_on_or_to_choose_by_are_told_with_how_many_it_takes(folder, tmp_path):
    """Of eight that are whole a fifth is two, which is what a figure takes."""
    config = tmp_path / "my.toml"
    config.write_text(
        f'data = "silos"\n[silos]\nanchors = "{folder}"\n[silos.modalities.photo]\nkind = "image"\n'
        '[silos.modalities.call]\nkind = "audio"\n[silos.modalities.lab]\nkind = "table"\n'
        + "".join(f'[[silos.nodes]]\nname = "{m}"\nmodality = "{m}"\ndata = "."\n' for m in ("photo", "call", "lab"))
    )

    def told(*settings):
        report = check_anchor_set(folder, read_config(config, settings) if settings else None)
        return [f"{one.what}; {one.remedy}" for one in warnings(report) if one.where == "concepts"]

    edit(folder, lambda rows: [row | {"quality": "0.5" if i >= 8 else ""} for i, row in enumerate(rows)])
    assert told() == []
    edit(folder, put(0, photo=""))
    (said,) = told()
    assert said == (
        "7 of 40 have a real item (quality 1) in every modality; held_out = 0.2 of these is 1, and partners are looked "
        'for among 2 or more: nothing is measured; give 8 a real item in every modality, or set measure = "rows" or '
        "held_out = 0"
    )
    assert said in " ".join(anchors("check", folder).output.split()).replace(" → ", "; ")
    assert told("silos.held_out=0.3") == told("silos.measure=rows") == told("silos.held_out=0") == []
    assert (
        "held_out = 0.1 of these is 1" in told("silos.held_out=0.1")[0] and "give 15 a" in told("silos.held_out=0.1")[0]
    )
    assert told("silos.held_out=0", "anchors=19") == [
        "19 of two modalities or more are left as anchors: too few to choose the fit by, which stays as set; give 1 "
        "more an item in two modalities"
    ]
    assert told("silos.held_out=0", "anchors=19", "align.choose=false") == told("silos.held_out=0", "anchors=20") == []


def test_a_set_is_spoken_of_in_the_words_of_its_kinds(tmp_path):
    """An item that is the mean of all says nothing: a picture is blank then, a row of numbers imputed."""
    folder, draw = tmp_path / "set", np.random.default_rng(0)
    values = draw.normal(size=(N, 6))
    values[0] = values[1:].mean(0)
    pixels = draw.integers(0, 255, (N, 56, 56, 3)).astype(np.float64)
    pixels[0] = pixels[1:].mean(0)
    (folder / "scans").mkdir(parents=True)
    for i, picture in enumerate(pixels.round().astype(np.uint8)):
        Image.fromarray(picture).save(folder / "scans" / f"{i}.png")
    write_rows(folder / "anchors.csv", [{"concept": f"c{i}", "scan": f"scans/{i}.png"} for i in range(N)])
    write_rows(
        folder / "lab.csv", [{"concept": f"c{i}"} | {f"x{j}": v for j, v in enumerate(values[i])} for i in range(N)]
    )
    found = {f.where: f.remedy for f in warnings(check_anchor_set(folder)) if "say next to nothing" in f.what}
    assert found == {
        "modality scan": "check whether they are blank", "modality lab": "check whether they are empty, or imputed"
    }  # fmt: skip


def test_settings_say_how_columns_are_read(whole, tmp_path):
    config = tmp_path / "my.toml"
    config.write_text(
        f'data = "silos"\n[silos]\nanchors = "{whole}"\n[silos.modalities.photo]\nkind = "image"\n'
        '[silos.modalities.lab]\nkind = "table"\ncolumns = ["x0", "x1"]\n'
        '[[silos.nodes]]\nname = "a"\nmodality = "photo"\ndata = "photos"\n'
        '[[silos.nodes]]\nname = "b"\nmodality = "lab"\ndata = "lab.csv"\n'
    )
    done = anchors("check", whole, config, "--json")
    assert done.exit_code == 0
    held = {one["modality"]: one["kind"] for one in json.loads(done.stdout)["held"]}
    assert held == {"photo": "image", "lab": "table"}
    odd = shutil.copytree(whole, tmp_path / "odd")
    edit(
        odd,
        lambda rows: [
            row | {"concept": "c01" if i < 2 else row["concept"], "scan": "scans/x.odd"} for i, row in enumerate(rows)
        ],
    )
    done = anchors("check", odd)
    assert done.exit_code == 2
    assert all(
        part in done.output.replace("\n", " ")
        for part in ("of which kind the files of 'scan'", "'c01' (line 2, line 3)", "'scans/x.odd' (line 2)")
    )
    done = anchors("check", tmp_path / "nothing")
    assert done.exit_code == 2 and "no anchors.csv" in done.output


def test_hash_and_fill(folder, tmp_path):
    assert anchors("hash", folder).stdout.strip() == hash_anchor_set(folder)
    new = tmp_path / "filled"
    words = ("fill", folder, "--modality", "name", "--by", "template", "--option", "template=the {concept}")
    assert anchors(*words).exit_code == 2, "where to?"
    assert anchors(*words, "--out", new, "--in-place").exit_code == 2
    done = anchors(*words, "--out", new, "--quality", "0.3")
    assert done.exit_code == 0 and f"{N} items of name made by template" in done.output
    row = read_rows(new / "anchors.csv")[4]
    assert row["name"] == "the c04" and row["quality:name"] == "0.3"
    assert row["provenance:name"] == "synthetic: template"
    assert "name" not in read_rows(folder / "anchors.csv")[0]
    assert hash_anchor_set(new) != hash_anchor_set(folder)
    assert 'set measure = "rows" or held_out = 0, or give some concepts a real item of name' in done.stderr
    write_rows(tmp_path / "t.csv", [{"concept": f"c{i:02}", "value": f"word {i}"} for i in (*range(N - 2), 99)])
    part = anchors(
        "fill",
        folder,
        "--modality",
        "name",
        "--by",
        "table",
        "--option",
        f"file={tmp_path / 't.csv'}",
        "-o",
        tmp_path / "p",
    )
    assert "2 could not be made: 'c38', 'c39'\n" in part.output and "does not know: 'c99'" in part.stderr
    again = anchors(*words, "--out", new)
    assert again.exit_code == 2 and "exists already" in again.output
    broken = anchors("fill", folder, "--modality", "name", "--by", "template", "--option", "voice", "--in-place")
    assert broken.exit_code == 2 and "KEY=VALUE" in broken.output
