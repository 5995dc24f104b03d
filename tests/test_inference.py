import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted
from tables import write_tables
from torch.testing import assert_close
from typer.testing import CliRunner

import isogram
from isogram import federation
from isogram.checkpoint import final_model
from isogram.cli import app
from isogram.config import Config, ModelConfig, TrainConfig
from isogram.config_file import read_config
from isogram.data import open_data, read_tokens
from isogram.errors import DataError
from isogram.inference import Bank, Model, read_source
from isogram.model.card import card
from isogram.model.peft_export import export_model

CONFIG = Config(
    data="machines",
    anchors=40,
    model=ModelConfig(width=48, layers=1),
    train=TrainConfig(rounds=1, steps=3, lr=1e-2, projector_lr=1e-2),
)
RUN = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module", params=["aligned", "trained"])
def model(request, data, tmp_path_factory):
    fed = federation.align(data, CONFIG)
    fed = fed if request.param == "aligned" else federation.train(fed)
    path = tmp_path_factory.mktemp(request.param) / "model.safetensors"
    final_model(fed, data).save(path)
    return Model.load(path.parent)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run on tables: its configuration's folder, and its model's file."""
    folder = tmp_path_factory.mktemp("own")
    config = read_config(write_tables(folder, anchors=40), ["threads=1"])
    tables = open_data(config)
    final_model(federation.align(tables, config), tables).save(folder / "model.safetensors")
    return folder


def test_importing_the_package_loads_nothing_heavy_and_offers_the_model():
    code = (
        "import sys, isogram; print(isogram.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)\n"
        "from isogram import Model; print(Model.__name__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{isogram.__version__} False False", "Model True"]
    with pytest.raises(AttributeError, match="no attribute 'Modell'"):
        isogram.Modell  # noqa: B018


def test_a_model_embeds_as_the_file_does(model, data):
    assert (model.modalities, model.classes, model.rank) == (("a", "b", "c"), data.classes, model.saved.frame.shape[1])
    for node in data.nodes:
        found = model.embed(node.name, node.tokens)
        assert found.dtype == np.float32 and found.shape == (60, model.rank)
        np.testing.assert_array_equal(found, model.saved.embed(node.name, node.tokens).numpy().astype(np.float32))
    assert model.embed("b", data.nodes[2].tokens[:0]).shape == (0, model.rank)


def test_an_item_alone_has_the_coordinates_that_it_has_among_others(model, data):
    """Not to the bit, for sums over another number of rows are ordered otherwise: to a millionth of its length."""
    for node in data.nodes:
        together = model.embed(node.name, node.tokens)
        alone = np.concatenate([model.embed(node.name, node.tokens[i : i + 1]) for i in range(10)])
        error = np.linalg.norm(alone - together[:10], axis=1) / np.linalg.norm(alone, axis=1)
        assert error.max() < 2e-6, node.name


def test_many_items_are_embedded_in_parts(model, data, monkeypatch):
    tokens = data.nodes[3].tokens
    whole = model.embed("c", tokens)
    monkeypatch.setattr("isogram.inference.model._BATCH", 7)
    np.testing.assert_allclose(model.embed("c", tokens), whole, rtol=0, atol=1e-6 * np.abs(whole).max())


def test_a_modality_stands_for_its_only_node(model, data):
    assert (model.node("b"), model.node("a-2")) == ("b", "a-2")
    with pytest.raises(DataError, match="several nodes hold 'a': a-1, a-2; name one of them"):
        model.embed("a", data.nodes[0].tokens)
    with pytest.raises(DataError, match="no node 'd' in this model; there are a-1, a-2, b, c"):
        model.embed("d", data.nodes[0].tokens)


def test_classes_are_those_of_the_saved_model_and_have_the_best_score(model, data):
    for node in data.nodes:
        named = model.classify(node.name, node.tokens)
        assert len(set(named)) > 1
        scores = model.class_scores(node.name, node.tokens)
        assert scores.shape == (60, 3) and np.abs(scores).max() <= 1 + 1e-6
        assert [model.classes[i] for i in scores.argmax(1)] == named


def test_no_class_is_named_where_none_has_evidence(model, data, tmp_path):
    rows, blank = data.nodes[2].tokens[:3], torch.full_like(model.saved.head_of("b"), torch.nan)
    bare = replace(model.saved, head=blank, heads=dict.fromkeys(model.saved.heads, blank))
    assert np.isnan(Model(bare).class_scores("b", rows)).all()
    with pytest.raises(DataError, match="no class can be named: none has evidence here, .*label more"):
        Model(bare).classify("b", rows)
    assert Model(bare).classify("b", rows[:0]) == []
    one = blank.clone()
    one[1] = model.saved.head_of("b")[1]
    some = replace(bare, head=one, heads=dict.fromkeys(model.saved.heads, one))
    assert Model(some).classify("b", rows) == [data.classes[1]] * 3


def test_the_command_says_that_no_class_has_evidence(own, tmp_path):
    saved = Model.load(own).saved
    blank = torch.full_like(saved.head_of("lab"), torch.nan)
    replace(saved, head=blank, heads=dict.fromkeys(saved.heads, blank)).save(tmp_path / "model.safetensors")
    for more in (["--json"], ["-o", str(tmp_path / "classes.csv")]):
        done = RUN.invoke(app, ["classify", str(tmp_path), str(own / "lab.csv"), "--node", "lab", *more])
        assert done.exit_code == 2 and done.stdout == "" and "none has evidence" in done.stderr
    assert not (tmp_path / "classes.csv").exists()


def test_a_model_of_numbers_says_what_to_give(model):
    for items in (["cat.png"], [{"gene": 1.0}]):
        with pytest.raises(DataError, match=r"does not know how items of 'b' become tokens.*array \[n, T, c\]"):
            model.embed("b", items)


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(DataError, match=r"holds no model\.safetensors; give the folder of a run that is complete"):
        Model.load(tmp_path)
    with pytest.raises(DataError, match="cannot read .*none"):
        Model.load(tmp_path / "none")


def test_one_nodes_part_does_what_the_whole_does_and_holds_nothing_of_others(model, data, tmp_path):
    model.saved.only("c").save(tmp_path / "part")
    part = Model.load(tmp_path / "part")
    np.testing.assert_array_equal(part.embed("c", data.nodes[3].tokens), model.embed("c", data.nodes[3].tokens))
    assert part.classify("c", data.nodes[3].tokens) == model.classify("c", data.nodes[3].tokens)
    assert part.fingerprint == model.fingerprint and part.nodes == {"c": "c"}
    assert {*part.saved.maps, *(part.saved.homes or {}), *part.saved.kept} <= {"c", "node:c"}
    raw = (tmp_path / "part").read_bytes()
    assert b"a-1" not in re.sub(rb'"labelling_nodes": \[[^]]*\]', b"", raw[:20000].replace(b"\\", b""))
    with pytest.raises(DataError, match="no node 'd' in this model"):
        model.saved.only("d")


def test_the_card_says_what_the_file_says(model):
    text = card(model.saved)
    assert text.startswith("---\nlibrary_name: isogram\nlicense: unknown")
    for said in (
        f"# Isogram model {model.fingerprint}",
        f"hash `{model.saved.anchor_hash}`",
        "| a-1 | a | yes |",
        "| b | b | no |",
        "| c | numbers | none: tokens are given | 4 | 40 |",
        "40 public anchors",
        "Named: x, y, z",
        "Labelled by: a-1, a-2",
        "trained without differential privacy",
        "To be filled in by the owner",
        "one-shot alignment" if model.saved.adapters is None else "1 federated round, trunk small",
    ):
        assert said in text, said


def test_the_card_of_private_training_says_what_is_guaranteed(model):
    private = {"epsilon": 4.99, "delta": 1e-5, "noise": "secret"}
    text = card(replace(model.saved, privacy=private))
    assert "covers every tensor" in text and "- epsilon: 4.99" in text and "without differential" not in text
    known = card(replace(model.saved, privacy={**private, "noise": "of a known seed: no guarantee"}))
    assert "nothing is guaranteed" in known and "covers every" not in known


def test_classes_without_evidence_are_said_never_to_be_named(model):
    head = model.saved.head.clone()
    head[1] = float("nan")
    text = card(replace(model.saved, head=head))
    assert "Named: x, z" in text and "Never named, for too few rows were labelled: y" in text
    none = card(replace(model.saved, head=None, heads={}))
    assert "None: nobody labelled rows" in none
    assert "a class is always named" in text and "a class is always named" not in none


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_export_is_a_model_with_its_card(model, data, tmp_path):
    done = export_model(model.saved, tmp_path / "out")
    assert (done.folders == {}) == (model.saved.adapters is None)
    assert (tmp_path / "out" / "README.md").read_text() == card(model.saved)
    assert_close(
        Model.load(tmp_path / "out").saved.embed("b", data.nodes[2].tokens),
        model.saved.embed("b", data.nodes[2].tokens),
        rtol=0,
        atol=0,
    )
    found: dict = {"tokens": data.nodes[0].tokens}
    exec(done.python, found)
    np.testing.assert_array_equal(found["coordinates"], model.embed("a-1", data.nodes[0].tokens))
    export_model(model.saved, tmp_path / "one", "c")
    assert Model.load(tmp_path / "one").nodes == {"c": "c"}
    assert "one node's part" in (tmp_path / "one" / "README.md").read_text()


def test_rows_of_a_table_are_read_as_in_a_run_on_files(own):
    model = Model.load(own / "model.safetensors")
    found = read_source(model, "lab", own / "lab.csv")
    np.testing.assert_array_equal(found.tokens, read_tokens(own / "lab.csv"))
    assert found.items[3].where == f"{own / 'lab.csv'}, line 5" and found.ids[3] == "lab-3"
    labelled = read_source(model, "north", own / "north.csv", label="diagnosis")
    assert labelled.labels[:6] == ("", "ill", "odd", "healthy", "ill", "")
    anchors = read_source(model, "lab", own / "public" / "meth.csv")
    assert anchors.only("anchor-3").items[0].where.endswith("line 5")
    for row, said in (("anchor-99", "no item has the id 'anchor-99'"), ("", "40 items where one is meant; .*--row ID")):
        with pytest.raises(DataError, match=said):
            anchors.only(row)
    with pytest.raises(DataError, match="no column 'state'; leave --label out"):
        read_source(model, "lab", own / "lab.csv", label="state")


def test_the_commands_embed_search_and_classify(own, tmp_path):
    model, bank = str(own / "model.safetensors"), str(tmp_path / "bank.parquet")
    public = own / "public"
    arguments = ["embed", model, str(public / "meth.csv"), "--node", "lab", "-o", bank]
    done = RUN.invoke(app, arguments)
    assert done.exit_code == 0 and done.output == f"wrote {bank}: 40 items of node lab\n", done.output
    assert "--force" in RUN.invoke(app, arguments).stderr and RUN.invoke(app, arguments).exit_code == 2
    again = RUN.invoke(app, [*arguments, "--force", "--json"])
    assert json.loads(again.stdout)["items"] == 40 and json.loads(again.stdout)["node"] == "lab"

    asked = ["search", model, bank, "--file", str(public / "rna.csv"), "--from", "north", "--row"]
    firsts = 0
    for i in range(40):
        hits = json.loads(RUN.invoke(app, [*asked, f"anchor-{i}", "-k", "1", "--json"]).stdout)["hits"]
        firsts += hits[0]["id"] == f"anchor-{i}"
    assert firsts >= 30  # they are the anchors that the maps were fitted to
    shown = RUN.invoke(app, [*asked, "anchor-3", "-k", "2"])
    assert shown.exit_code == 0 and len([x for x in shown.output.splitlines() if "meth.csv, line" in x]) == 2
    expected = Bank.load(bank).search(Model.load(model).embed("north", read_tokens(public / "rna.csv"))[3], 2)
    found = json.loads(RUN.invoke(app, [*asked, "anchor-3", "-k", "2", "--json"]).stdout)
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in expected])
    plain = json.loads(RUN.invoke(app, [*asked, "anchor-3", "--plain", "--json"]).stdout)["hits"]
    assert all(hit["score"] == hit["cosine"] for hit in plain)

    other = str(tmp_path / "other.parquet")
    assert RUN.invoke(app, ["embed", model, str(public / "rna.csv"), "--node", "south", "-o", other]).exit_code == 0
    both = ["search", model, bank, other, *asked[3:], "anchor-3", "-k", "2"]
    hits = json.loads(RUN.invoke(app, [*both, "--json"]).stdout)["hits"]
    assert [(hit["rank"], hit["bank"]) for hit in hits] == [(1, bank), (2, bank), (1, other), (2, other)]
    assert hits[:2] == found["hits"] and hits[2]["id"] == "anchor-3"
    titles = [line.strip() for line in RUN.invoke(app, both).stdout.splitlines() if ": node " in line]
    assert titles == [f"{bank}: node lab", f"{other}: node south"]
    wrong = RUN.invoke(
        app, ["search", model, str(own / "lab.csv"), bank, str(tmp_path / "none"), *asked[3:], "anchor-3"]
    )
    assert wrong.exit_code == 2 and [name in wrong.stderr for name in ("lab.csv", "none", bank)] == [True, True, False]

    done = RUN.invoke(app, ["classify", model, str(own / "lab.csv"), "--node", "lab"])
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["class"] for row in rows] == Model.load(model).classify("lab", read_tokens(own / "lab.csv"))
    out = tmp_path / "classes.csv"
    done = RUN.invoke(app, ["classify", model, str(own / "lab.csv"), "--node", "lab", "-o", str(out)])
    assert done.exit_code == 0 and list(csv.DictReader(io.StringIO(out.read_text()))) == rows


def test_classes_are_printed_without_what_steers_a_terminal_and_written_as_they_are(own, tmp_path):
    table, out = tmp_path / "lab.csv", tmp_path / "classes.csv"
    table.write_text((own / "lab.csv").read_text().replace("lab-3,", "lab\x1b[2J,"))
    command = ["classify", str(own / "model.safetensors"), str(table), "--node", "lab"]
    shown = RUN.invoke(app, command)
    assert shown.exit_code == 0 and "\x1b" not in shown.stdout and "\nlab\\x1b[2J," in shown.stdout, shown.output
    assert RUN.invoke(app, [*command, "-o", str(out)]).exit_code == 0 and "lab\x1b[2J," in out.read_text()


def test_wrong_questions_are_told(own, tmp_path):
    model, bank = str(own / "model.safetensors"), str(tmp_path / "bank.parquet")
    lab = str(own / "lab.csv")
    assert RUN.invoke(app, ["embed", model, lab, "--node", "lab", "-o", bank]).exit_code == 0
    for arguments, said in (
        (["embed", model, lab, "--node", "west", "-o", f"{bank}2"], "no node 'west'"),
        (["embed", model, lab, "--node", "rna", "-o", f"{bank}2"], "several nodes hold 'rna': north, south"),
        (["embed", model, str(own / "none.csv"), "--node", "lab", "-o", f"{bank}2"], "no file"),
        (
            ["embed", model, str(own / "north.csv"), "--node", "lab", "-o", f"{bank}2", "--label", "diagnosis"],
            "takes rows",
        ),
        (["embed", str(own), lab, "--node", "lab", "-o", f"{bank}2", "--id", "x"], "leave --id out"),
        (["embed", model, lab, "--node", "lab", "-o", str(tmp_path / "no" / "bank")], "there is no folder"),
        (["embed", model, lab, "--node", "lab", "--force", "-o", str(tmp_path)], "is a folder; name a file"),
        (["classify", model, lab, "--node", "lab", "-o", str(tmp_path / "no" / "x.csv")], "there is no folder"),
        (["classify", model, lab, "--node", "lab", "--label", "x"], "No such option"),
        (["classify", str(own / "none"), lab, "--node", "lab"], "there is no such folder or file; name a run"),
        (["search", model, bank, "--text", "a", "--row", "lab-3"], "leave it out with --text"),
        (["search", model, bank], "either --text or --file"),
        (["search", model, bank, "--text", "a", "--file", lab], "either --text or --file"),
        (["search", model, bank, "--text", "a"], "no node takes text; there are lab (meth), north (rna), south (rna)"),
        (["search", model, bank, "--text", "a", "--from", "lab"], "does not know how items of 'meth' become tokens"),
        (["search", model, bank, "--file", lab, "--from", "lab"], "24 items where one is meant"),
        (["search", model, lab, "--file", lab, "--from", "lab"], "cannot read"),
        (["classify", model, lab, "--node", "west"], "no node 'west'"),
    ):
        done = RUN.invoke(app, arguments)
        assert done.exit_code == 2 and said in done.stderr, done.output
    assert not (tmp_path / "bank.parquet2").exists()
