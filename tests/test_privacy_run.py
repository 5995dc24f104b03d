"""A run in its folder under differential privacy: what it says, what it keeps secret, and when it does not go on."""

import json
import shutil

import pytest
from rich.console import Console
from table_runs import QUIET
from tables import write_tables

from isogram.config_file import read_config
from isogram.errors import RunError
from isogram.model import SavedModel
from isogram.model.peft_export import export_model
from isogram.progress import Watch
from isogram.run import run
from isogram.run_folder import check_noise


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    file = write_tables(folder, anchors=40)
    settings = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=2", "train.steps=2"]
    settings += ["privacy.epsilon=5", "train.weights.task=1", f"output.folder='{folder}'"]
    return run(read_config(file, settings), QUIET)


def test_a_run_says_what_it_spent(outcome, tmp_path):
    metrics = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    spent = [m["value"] for m in metrics if m["metric"] == "epsilon"]
    assert [m["round"] for m in metrics if m["metric"] == "epsilon"] == [0, 1, 2]
    assert spent == sorted(spent) and 4.99 < spent[-1] <= 5
    assert not [m for m in metrics if m["metric"] == "loss/task"]
    model = SavedModel.load(outcome.folder / "model.safetensors")
    assert model.privacy["epsilon"] == round(spent[-1], 4) and model.privacy["noise"] == "secret"
    assert outcome.notes[-1] == "privacy: epsilon 5 of 5 is spent, at delta 1e-05"
    assert "ε spent" in (outcome.folder / "report.html").read_text()
    done = export_model(model, tmp_path / "adapter")
    for folder in done.folders.values():
        assert f"epsilon: {model.privacy['epsilon']}" in (folder / "README.md").read_text()


def test_a_run_tells_nobody_how_many_rows_there_are(outcome):
    state = json.loads((outcome.folder / "run.json").read_text())
    assert {node["rows"] for node in state["nodes"]} == {None}
    methods = {row.method for row in outcome.rows}
    assert methods == {"closed-form", "isogram"}  # others would release class sums without noise
    assert not (outcome.folder / "noise.key").exists()


def test_a_run_does_not_go_on_without_its_secret(tmp_path, monkeypatch):
    file = write_tables(tmp_path, anchors=40)
    settings = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=2", "train.steps=2"]
    settings += ["privacy.epsilon=5", "train.weights.task=1", f"output.folder='{tmp_path}'"]
    config = read_config(file, settings)
    with monkeypatch.context() as patch:
        patch.setattr("isogram.federation.train_round", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config, QUIET)
    secret = tmp_path / config.name / "noise.key"
    assert len(bytes.fromhex(secret.read_text())) == 32 and secret.stat().st_mode & 0o077 == 0
    assert secret.read_text() not in (tmp_path / config.name / "config.toml").read_text()
    kept = secret.read_text()
    secret.unlink()
    with pytest.raises(RunError, match="noise.key"):
        run(config, QUIET, resume=True)
    secret.write_text(kept)
    run(config, QUIET, resume=True)


class Stopping(Watch):
    """Stops a run in its second round, after a node has sent its update."""

    def tick(self, tick):
        if tick.round == 2 and tick.terms:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    settings = ["threads=1", "model.width=48", "model.layers=1", "train.rounds=2", "train.steps=1"]
    config = read_config(
        write_tables(folder, anchors=40), [*settings, "privacy.epsilon=5", f"output.folder='{folder}'"]
    )
    with pytest.raises(KeyboardInterrupt):
        run(config, Stopping(Console(quiet=True)))
    return folder / config.name, config


@pytest.mark.parametrize("what", ["torch", "python", "platform", "vector unit"])
def test_a_run_does_not_draw_its_noise_again_under_other_software_or_on_another_machine(stopped, what):
    """The last bits of a sum may be others there: the difference of two sums under the same noise has none."""
    folder, config = stopped
    path = folder / "environment.json"
    kept = path.read_text()
    environment = json.loads(kept)
    (environment["packages"] if what == "torch" else environment)[what] = "older"
    path.write_text(json.dumps(environment))
    try:
        with pytest.raises(RunError, match=f"{folder}.*{what} .*, before older.*; go on .*another name"):
            run(config, QUIET, resume=True)
    finally:
        path.write_text(kept)


def test_a_round_that_had_begun_to_send_is_not_sent_again_by_a_device_that_sums_as_it_likes(stopped, tmp_path):
    folder, config = stopped
    check_noise(folder, config)
    cuda = config.model_copy(update={"train": config.train.model_copy(update={"device": "cuda"})})
    with pytest.raises(RunError, match="round 2 had begun to send.*train.device = cuda.*another name"):
        check_noise(folder, cuda)
    copied = shutil.copytree(folder, tmp_path / "copy")
    lines = (copied / "egress.jsonl").read_text().splitlines(keepends=True)
    (copied / "egress.jsonl").write_text("".join(line for line in lines if json.loads(line)["round"] < 3))
    check_noise(copied, cuda)  # stopped between two rounds
    (copied / "checkpoints" / "round-0001.safetensors").unlink()
    with pytest.raises(RunError, match="round 1 had begun to send"):
        check_noise(copied, cuda)
    (copied / "checkpoints" / "round-0000.safetensors").unlink()
    with pytest.raises(RunError, match="alignment had begun to send"):
        check_noise(copied, cuda)
    run(config, QUIET, resume=True)
    check_noise(folder, cuda)  # complete: no more noise is drawn
