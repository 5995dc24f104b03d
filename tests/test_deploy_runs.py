"""Runs at the server, as far as they go without one: what a run that the engine never took leaves, and what is said."""

import pytest
from deployments import write_consortium

from isogram.deploy.init import init
from isogram.deploy.runs import ENGINE, find, resume, start, stop
from isogram.engine.commands import free_port
from isogram.errors import RunError
from isogram.run_folder import write_json


@pytest.fixture
def server(tmp_path):
    """A server's folder; nobody listens on its port."""
    listen = f'listen = "127.0.0.1:{free_port()}"\n\n[modalities.numbers]'
    file = write_consortium(tmp_path)
    file.write_text(file.read_text().replace("[modalities.numbers]", listen))
    return init(file).folder.server.path


def made(server, name):
    folder = server / "state" / "runs" / name
    folder.mkdir(parents=True)
    return folder


def test_a_run_that_cannot_begin_leaves_nothing(server):
    write_json(made(server, "good") / ENGINE, {"run": "7"})
    (server / "state" / "runs" / "good" / "outcome.json").write_text('{"problems": []}')
    with pytest.raises(RunError, match="no server at localhost"):
        start(server, "next")
    assert find(server).name == "good"
    with pytest.raises(RunError, match="no run 'next' in .*; there are good"):
        find(server, "next")


def test_a_run_that_cannot_go_on_stays(server):
    folder = made(server, "killed")  # while it was handed to the engine
    with pytest.raises(RunError, match="no server at localhost"):
        resume(server)
    assert folder.exists()


def test_the_latest_run_is_one_that_the_engine_took(server):
    write_json(made(server, "taken") / ENGINE, {"run": "7"})
    never = made(server, "never")
    assert find(server).name == "taken" and find(server, "never") == never
    with pytest.raises(RunError, match="run 'never' never began, there is nothing to stop"):
        stop(server, "never")
