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
from isogram.deploy.simulated import place
from isogram.inference import Model
from isogram.tensor_file import read_tensors

pytestmark = pytest.mark.deploy

SETTINGS = ("data=machines", "anchors=20", "train.rounds=2", "train.steps=2", "model.width=48", "model.layers=1")


def test_the_simulation_gives_the_bits_of_the_federation_in_process(tmp_path):
    out = tmp_path / "out"
    command = [str(Path(sys.executable).with_name("isogram")), "deploy", "simulate", "--out", str(out)]
    command += [f"--set={text}" for text in SETTINGS]
    done = run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "round 2 of 2 done" in done.stderr and str(out / "server.safetensors") in done.stdout
    config = read_config(None, SETTINGS)
    expected = round_state(federation.train(federation.align(open_data(config), config)))
    assert not differences(read_tensors(out / "server.safetensors")[0], expected)
    for name in ("log", "vibration"):
        assert Model.load(out / "nodes" / name / "simulated" / "model.safetensors")
    other = run([*command, "--set=data=digits"], capture_output=True, text=True, check=False)
    assert other.returncode == 2 and "was made with other data than these; name another folder" in other.stderr


def test_nodes_have_folders_of_their_own():
    places = [place(Path("out"), name) for name in ("x", "x/a", "x-a", "x%2Fa")]
    assert len(set(places)) == 4 and {there.parent for there in places} == {Path("out/nodes")}
