"""A federation on the engine's simulation: a minute, most of it Ray's."""

import sys
from pathlib import Path
from subprocess import run

import pytest
from consortium import differences

from isogram import federation
from isogram.checkpoint import round_state
from isogram.config_file import read_config
from isogram.data import open_data
from isogram.inference import Model
from isogram.tensor_file import read_tensors

pytestmark = pytest.mark.deploy

SETTINGS = ("data=machines", "anchors=40", "train.rounds=2", "train.steps=2", "model.width=48", "model.layers=1")


def test_the_simulation_gives_the_bits_of_the_federation_in_process(tmp_path):
    out = tmp_path / "out"
    command = [str(Path(sys.executable).with_name("isogram")), "deploy", "simulate", "--out", str(out)]
    done = run([*command, *(f"--set={text}" for text in SETTINGS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "round 2 of 2 done" in done.stderr and str(out / "server.safetensors") in done.stdout
    config = read_config(None, SETTINGS)
    expected = round_state(federation.train(federation.align(open_data(config), config)))
    assert not differences(read_tensors(out / "server.safetensors")[0], expected)
    for name in ("log", "vibration"):
        assert Model.load(out / "nodes" / name / "simulated" / "model.safetensors")
