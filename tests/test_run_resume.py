"""A run that was stopped, killed, or had no disk goes on to the same bits."""

import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from disk import on_disk
from planted import planted
from table_runs import QUIET, SETTINGS, assert_same, settings
from torch.testing import assert_close

from isogram import federation
from isogram.checkpoint import alignment_state, restore_alignment, restore_round, round_state
from isogram.config import Config, ModelConfig, TrainConfig
from isogram.run import run
from isogram.tensor_file import read_tensors, write_tensors


def attempt(file, folder):
    torch.set_num_threads(1)
    run(settings(file, folder), QUIET, resume=True)


def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(whole, file, tmp_path):
    """At least 20 real SIGKILLs, at random moments of runs that each go on until they are complete."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["isogram.run", "isogram.report.page", "peft", "transformers"])
    moments, draw = [], random.Random(0)
    first = time.monotonic()
    whole_again = context.Process(target=attempt, args=(file, tmp_path / "first"))
    whole_again.start()
    whole_again.join(120)
    length = time.monotonic() - first
    assert whole_again.exitcode == 0
    assert_same(tmp_path / "first" / "own", whole.folder)
    complete = 0
    while len(moments) < 24 or not complete:
        folder = tmp_path / f"run-{complete}"
        process = context.Process(target=attempt, args=(file, folder))
        process.start()
        # Rounds are a small part of a run's time, and should get most of the kills.
        process.join(draw.uniform(0.02, draw.choice([0.4, 1.0]) * length))
        if process.is_alive():
            process.kill()
            process.join()
            moments.append(len(list(folder.glob("own/checkpoints/round-*.safetensors"))))
        else:
            assert process.exitcode == 0
            assert_same(folder / "own", whole.folder)
            shutil.rmtree(folder)
            complete += 1
    assert len(set(moments)) >= 3, f"kills at too few places: {moments}"


def test_ctrl_c_ends_a_run_with_a_hint_and_resume_finishes_it(whole, file, tmp_path):
    """A real process group gets SIGINT as from a keyboard, after its first rounds."""
    settings = [f"--set={s}" for s in [*SETTINGS, f"output.folder='{tmp_path}'"]]
    command = [sys.executable, "-c", "from isogram.cli import app; app()", "run", str(file), *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    mark = tmp_path / "own" / "checkpoints" / "round-0001.safetensors"
    for _ in range(3000):
        if mark.exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in said and "Traceback" not in said, said
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on after round" in again.stderr and "own: 12 held-out rows" in again.stdout
    assert_same(tmp_path / "own", whole.folder)


def test_a_disk_that_is_full_or_read_only_ends_a_run_which_goes_on_when_it_is_mended(whole, file, tmp_path):
    """On a real file system: too small at first, then without permission to write, then large enough."""
    disk, keep = tmp_path / "disk", tmp_path / "kept"
    settings = " ".join(f"--set={s}" for s in [*SETTINGS, f"output.folder={disk}"])
    command = (
        f"'{sys.executable}' -c 'from isogram.cli import app; app()' run '{file}' {settings} --quiet --resume 2>&1"
    )
    lines = on_disk(
        disk,
        f"{command} | tail -1",
        f"ls '{disk}/own/checkpoints' | wc -l",
        f"mount -o remount,ro,size=20m '{disk}'",
        f"{command}; echo code $?",
        f"mount -o remount,rw,size=20m '{disk}'",
        f"{command} > /dev/null && cp -r '{disk}/own' '{keep}'",
        size="340k",
    )
    assert "No space left on device; free some space" in lines[0] and lines[0].startswith("error: ")
    assert 1 < int(lines[1]) < 7, "the disk was not full in the middle of the run: the test means nothing"
    assert "Read-only file system" in lines[2] and lines[3] == "code 4" and len(lines) == 4
    assert_same(keep, whole.folder)


def test_a_complete_run_can_be_resumed_without_harm(whole, file, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "own")
    assert run(settings(file, tmp_path), QUIET, resume=True).resumed_at == 6
    assert_same(tmp_path / "own", whole.folder)


@pytest.mark.parametrize("across", ["pooled", "attention", "none", "alone"])
def test_a_run_whose_nodes_do_not_share_everything_goes_on_to_the_same_bits(file, tmp_path, across, whole):
    """As after a stop in the third round: its checkpoint is not there, but what it logged is."""
    more = [f"average.across={across}", "train.refresh=2"]
    done = run(settings(file, tmp_path / "whole", *more), QUIET).folder
    assert (done / "model.safetensors").read_bytes() != (whole.folder / "model.safetensors").read_bytes()
    shutil.copytree(done, tmp_path / "again" / "own")
    for n in range(3, 7):
        (tmp_path / "again" / "own" / "checkpoints" / f"round-{n:04d}.safetensors").unlink()
    assert run(settings(file, tmp_path / "again", *more), QUIET, resume=True).resumed_at == 2
    assert_same(tmp_path / "again" / "own", done)


def test_resume_begins_a_run_that_is_not_there(file, tmp_path):
    assert run(settings(file, tmp_path, "train.rounds=0"), QUIET, resume=True).resumed_at is None


@pytest.mark.parametrize("done", range(4))
def test_a_state_put_back_is_the_state(tmp_path, done):
    """Through real files, for they also say how numbers lie in memory, which decides the last bits."""
    config = Config(
        data="machines",
        anchors=40,
        model=ModelConfig(width=48, layers=1),
        train=TrainConfig(rounds=3, steps=2, lr=1e-2, projector_lr=1e-2, frame_update=0.5),
    )
    data = planted(holds={"a": range(30), "b": range(10, 40)})
    aligned = federation.align(data, config)
    straight = federation.train(aligned)
    stopped = federation.start_training(aligned)
    while stopped.round < done:
        stopped = federation.train_round(stopped)
    write_tensors(tmp_path / "0", alignment_state(aligned), {})
    write_tensors(tmp_path / "n", round_state(stopped), {})
    position = {"round": done, "history": stopped.history, "refused": ()}
    again = restore_alignment(federation.gather(data, config), read_tensors(tmp_path / "0")[0])
    again = restore_round(again, read_tensors(tmp_path / "n")[0], position)
    while again.round < 3:
        again = federation.train_round(again)
    for name, value in round_state(straight).items():
        assert_close(round_state(again)[name], value, rtol=0, atol=0, equal_nan=True)
    for node, other in zip(again.nodes, straight.nodes, strict=True):
        assert_close(node.embed(node.data.tokens), other.embed(node.data.tokens), rtol=0, atol=0)
    assert again.history == straight.history
