"""What stands in the way of a run is told, and nothing is written over."""

import io
import json
import multiprocessing
import shutil
import sys
from dataclasses import replace

import pytest
import showroom
import torch
from rich.console import Console
from table_runs import QUIET, run_module, settings
from tables import shuffle_anchors

from isogram.data import open_data
from isogram.errors import ConfigError, DataError, RefusedError, RunError
from isogram.files import make_folder
from isogram.progress import Watch
from isogram.run import diagnose, run

# What stands in the way of a run.


def refused(config, error, *words, **options):
    with pytest.raises(error) as caught:
        run(config, QUIET, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def unchanged(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_with_a_run_is_not_written_over(whole, file):
    before = unchanged(whole.folder)
    refused(settings(file, whole.folder.parent), RunError, "holds a run already", "--resume")
    assert unchanged(whole.folder) == before


@pytest.mark.parametrize("resume", [False, True])
def test_wrong_settings_are_told_before_the_folder_that_holds_a_run(whole, file, resume, tmp_path):
    """Else somebody finds another name first, and then hears of them."""
    before = unchanged(whole.folder)
    wrong = settings(file, whole.folder.parent, "model.target=nothing")
    refused(wrong, ConfigError, "model.target = 'nothing' matches no linear layer", resume=resume)
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    (tables / "north.csv").unlink()
    refused(settings(tables / "own.toml", whole.folder.parent), DataError, "no file", "north.csv", resume=resume)
    assert unchanged(whole.folder) == before


def test_wrong_silos_are_told_before_the_folder_and_no_item_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOGRAM_CACHE", str(tmp_path / "cache"))
    config = showroom.on_disk(tmp_path)
    make_folder(tmp_path / "runs" / "shop")
    (tmp_path / "runs" / "shop" / "thesis.tex").write_text("precious")
    refused(config, RunError, "no run folder but holds thesis.tex")
    for encoder, said in (("minilml", "no encoder 'minilml'"), ("hf:/nowhere/x", "there is no folder /nowhere/x")):
        note = config.silos.modalities["note"].model_copy(update={"encoder": encoder})
        silos = config.silos.model_copy(update={"modalities": {**config.silos.modalities, "note": note}})
        refused(config.model_copy(update={"silos": silos}), DataError, "modality 'note': ", said)
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_another_configuration_is_refused_with_what_differs(whole, file):
    before = unchanged(whole.folder)
    config = settings(file, whole.folder.parent, "train.lr=0.02", "seed=3")
    words = ("another configuration", "seed = 0 there and 3 now", "train.lr = 0.01 there and 0.02 now")
    refused(config, RunError, *words, resume=True)
    assert unchanged(whole.folder) == before


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("lab.csv", lambda lines: lines[:-1]),
        ("north.csv", lambda lines: [lines[0], lines[1].rpartition(",")[0] + ",odd", *lines[2:]]),
        (
            "test/meth.csv",
            lambda lines: [lines[0], *(f"test-{i}," + x.partition(",")[2] for i, x in enumerate(lines[:0:-1]))],
        ),
        ("public/rna.csv", lambda lines: [lines[0], lines[1] + "1", *lines[2:]]),
    ],
)
def test_a_run_does_not_go_on_with_other_data(file, tmp_path, table, change):
    """Private rows, a label, the pairing of held-out rows, an anchor: whatever is not as it was."""
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    config = settings(tables / "own.toml", tmp_path, "train.rounds=0")
    run(config, QUIET)
    before = unchanged(tmp_path / "own")
    (tables / table).write_text("\n".join(change((tables / table).read_text().splitlines())) + "\n")
    refused(config, RunError, "was made with other data", "another name", resume=True)
    assert unchanged(tmp_path / "own") == before


def test_leftovers_of_killed_writers_are_swept_and_do_not_stand_in_the_way(file, tmp_path):
    checkpoints = tmp_path / "own" / "checkpoints"
    checkpoints.mkdir(parents=True)
    left = [tmp_path / "own" / ".config.toml.123.tmp", checkpoints / ".round-0000.safetensors.7.tmp"]
    for path in left:
        path.write_text("half")
    run(settings(file, tmp_path, "train.rounds=0"), QUIET)
    assert not any(path.exists() for path in left)


def test_checkpoints_of_something_else_are_left_alone(whole, file, tmp_path):
    shutil.copytree(whole.folder / "checkpoints", tmp_path / "own" / "checkpoints")
    refused(settings(file, tmp_path), RunError, "no run folder but holds round-0000.safetensors", resume=True)


def test_seconds_of_a_resumed_run_count_all_rounds(file, tmp_path):
    config = settings(file, tmp_path, "train.rounds=3")
    run(config, QUIET)
    (tmp_path / "own" / "checkpoints" / "round-0003.safetensors").unlink()
    run(config, QUIET, resume=True)
    metrics = [json.loads(line) for line in (tmp_path / "own" / "metrics.jsonl").read_text().splitlines()]
    told = [m["value"] for m in metrics if m["metric"] == "seconds"]
    assert len(told) == 4
    assert json.loads((tmp_path / "own" / "run.json").read_text())["seconds"] == pytest.approx(sum(told), abs=2e-3)


def test_a_run_that_another_process_began_meanwhile_is_not_written_over(whole, file, tmp_path, monkeypatch):
    """The folder is looked at again once this process alone may write to it."""
    looks = []
    real = run_module.check_folder

    def look(folder, *rest):
        looks.append(folder)
        if len(looks) == 2:
            for path in whole.folder.iterdir():
                if path.is_file() and path.name != ".lock":
                    shutil.copy(path, folder)
        real(folder, *rest)

    monkeypatch.setattr(run_module, "check_folder", look)
    refused(settings(file, tmp_path), RunError, "holds a run already")
    assert (tmp_path / "own" / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("device", ["cuda", "gpu0", "mps"])
def test_a_device_that_is_not_there_is_told_before_a_folder_is_made(file, tmp_path, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    refused(settings(file, tmp_path, f"train.device={device}"), ConfigError, f"'{device}' cannot be used here", "cpu")
    assert not (tmp_path / "own").exists()


def test_a_trunk_too_narrow_for_the_frame_is_told_before_a_folder_is_made(file, tmp_path):
    refused(settings(file, tmp_path, "model.width=16"), DataError, "model.width", "39 coordinates")
    assert not (tmp_path / "own").exists()


def cut_tables(file, folder, **keep):
    """A copy of the tables with only the first rows of some."""
    shutil.copytree(file.parent, folder)
    for name, rows in keep.items():
        for path in folder.rglob(f"{name}.csv"):
            path.write_text("".join(path.read_text().splitlines(True)[: rows + 1]))
    return folder / "own.toml"


def test_three_held_out_pairs_are_enough_for_a_run_though_not_for_cka(file, tmp_path):
    own = cut_tables(file, tmp_path / "tables")
    for path in (tmp_path / "tables" / "test").iterdir():
        path.write_text("".join(path.read_text().splitlines(True)[:4]))
    outcome = run(settings(own, tmp_path, "train.rounds=1"), QUIET)
    assert {row.metric for row in outcome.rows} >= {"r1", "accuracy"} and "cka" not in {r.metric for r in outcome.rows}


def test_a_node_of_one_row_and_one_without_any_known_label_take_part(file, tmp_path):
    own = cut_tables(file, tmp_path / "tables", lab=1)
    text = (tmp_path / "tables" / "south.csv").read_text()
    for name in ("healthy", "ill", "odd"):
        text = text.replace(f",{name}\n", ",\n")
    (tmp_path / "tables" / "south.csv").write_text(text)
    outcome = run(settings(own, tmp_path, "train.rounds=1"), QUIET)
    assert (outcome.folder / "report.html").exists()
    assert not [f for f in outcome.diagnosis.findings if f.where == "node lab"]


def test_another_version_on_resume_is_told(whole, file, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    path = tmp_path / "own" / "environment.json"
    path.write_text(path.read_text().replace(torch.__version__, "1.0"))
    out = io.StringIO()
    run(settings(file, tmp_path), Watch(Console(file=out, width=200)), resume=True)
    assert f"torch {torch.__version__}, before 1.0: the last bits may differ" in out.getvalue()


def test_a_folder_of_something_else_is_left_alone(file, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("precious")
    refused(settings(file, tmp_path), RunError, "no run folder but holds thesis.tex")
    assert [p.name for p in (tmp_path / "own").iterdir()] == ["thesis.tex"]


def hold(folder, ready, done):
    from isogram.run_folder import locked

    with locked(folder):
        ready.set()
        done.wait(60)


def test_two_processes_do_not_write_one_folder(whole, file):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(whole.folder, ready, done))
    other.start()
    assert ready.wait(60)
    refused(settings(file, whole.folder.parent), RunError, "another process works in", resume=True)
    done.set()
    other.join()


def test_a_damaged_checkpoint_is_named(whole, file, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    path = tmp_path / "own" / "checkpoints" / "round-0006.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refused(settings(file, tmp_path), DataError, "round-0006.safetensors", "damaged", resume=True)


def test_a_log_with_lines_missing_is_named(whole, file, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    path = tmp_path / "own" / "messages.jsonl"
    path.write_text("".join(path.read_text().splitlines(True)[:-3]))
    refused(settings(file, tmp_path), DataError, "messages.jsonl holds", resume=True)


def test_wrong_data_leave_no_folder(file, tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    (tables / "public" / "rna.csv").unlink()
    refused(settings(tables / "own.toml", tmp_path / "runs"), DataError, "no file")
    assert not (tmp_path / "runs").exists()


def test_unrelated_silos_are_refused_and_force_goes_on(file, tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    shuffle_anchors(tables, "meth")
    config = settings(tables / "own.toml", tmp_path / "runs", "train.rounds=0")
    refused(config, RefusedError, "meth")
    assert not (tmp_path / "runs").exists()
    assert run(config, QUIET, force=True).diagnosis.refusals


def test_a_rank_that_the_anchors_cannot_carry_is_refused(file, tmp_path):
    refused(settings(file, tmp_path, "align.rank=40"), DataError, "align.rank", "39")


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        (["model.rank=50"], ["model.rank = 50", "48 x 48", "48 or less"]),
        (["model.target=nothing"], ["model.target = 'nothing' matches no linear layer", "dense, key, query, value"]),
        (["model.target=*proj"], ["'*proj' is no regular expression", "give a list"]),
        (["model.trunk=./nowhere"], ["nowhere' cannot be loaded: there is no such folder", "save_pretrained"]),
        (["model.start=./nowhere"], ["nowhere"]),
    ],
)
def test_adapters_that_do_not_fit_the_trunk_are_told_before_a_folder_is_made(file, tmp_path, settings_, words):
    refused(settings(file, tmp_path, *settings_), ConfigError, *words)
    assert not (tmp_path / "own").exists()


def test_tensorboard_logs_every_term_of_every_node_once_also_after_an_interruption(file, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = settings(file, tmp_path, "output.tensorboard=true", "train.rounds=3")
    run(config, QUIET)
    for path in (tmp_path / "own" / "checkpoints").glob("round-000[23].safetensors"):
        path.unlink()
    run(config, QUIET, resume=True)
    found = EventAccumulator(str(tmp_path / "own" / "tensorboard")).Reload()
    assert {"loss/frame", "loss/frame/lab", "loss/task/north", "seconds"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("loss/frame/lab")] == [1, 2, 3]
    metrics = [json.loads(line) for line in (tmp_path / "own" / "metrics.jsonl").read_text().splitlines()]
    told = [m["value"] for m in metrics if (m["metric"], m["node"]) == ("loss/frame", "lab")]
    assert [event.value for event in found.Scalars("loss/frame/lab")] == pytest.approx(told)


def test_tensorboard_that_is_not_installed_is_told_before_anything_is_done(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    refused(
        settings(file, tmp_path, "output.tensorboard=true"), ConfigError, "pip install -e '.[tensorboard]' in the clone"
    )
    assert not (tmp_path / "own").exists()


def test_one_class_at_a_node_is_refused(file, tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    text = (tables / "north.csv").read_text()
    (tables / "north.csv").write_text(text.replace(",ill\n", ",\n").replace(",odd\n", ",\n"))
    refused(settings(tables / "own.toml", tmp_path / "runs"), RefusedError, "north", "healthy")


def test_silos_that_nothing_connects_are_refused_with_their_groups(file, tmp_path):
    tables = tmp_path / "tables"
    shutil.copytree(file.parent, tables)
    text = (tables / "public" / "meth.csv").read_text()
    (tables / "public" / "meth.csv").write_text(text.replace("anchor-", "other-"))
    refused(settings(tables / "own.toml", tmp_path / "runs"), DataError, "meth", "rna")


def test_features_that_never_vary_are_refused(file, tmp_path):
    data = open_data(settings(file, tmp_path))
    items = dict(data.anchors.items)
    items["meth"] = replace(items["meth"], tokens=items["meth"].tokens * 0)
    with pytest.raises(DataError, match="meth"):
        diagnose(replace(data, anchors=replace(data.anchors, items=items)), settings(file, tmp_path))
