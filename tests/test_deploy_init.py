import configparser
import json
import os
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from deployments import EAST, write_consortium
from disk import on_disk
from filelock import FileLock
from typer.testing import CliRunner

from isogram.cli import app
from isogram.deploy.check import check, open_server
from isogram.deploy.init import init
from isogram.deploy.keys import SERVER_DAYS
from isogram.errors import ConfigError, StorageError

RUN = CliRunner(env={"COLUMNS": "200"})
NOW = datetime.now(UTC)


@pytest.fixture
def made(tmp_path):
    """A consortium's folder, and its file beside it."""
    return init(write_consortium(tmp_path)).folder.path


def files(folder):
    """Every file and what is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def secrets(folder):
    return {name: data for name, data in files(folder).items() if name.endswith((".key", ".crt", ".pub"))}


def problems(*arguments, **named):
    with pytest.raises(ConfigError) as caught:
        init(*arguments, **named)
    return list(caught.value.problems)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_fresh_folder(tmp_path, umask):
    before = os.umask(umask)
    try:
        root = init(write_consortium(tmp_path)).folder.path
    finally:
        os.umask(before)
    assert root == tmp_path / "two-hospitals"
    common = ["ca.crt", "consortium.toml", "isogram.service"]
    site = [*common, "README.md", "site.toml"]
    assert sorted(files(root)) == sorted(
        ["ca/ca.crt", "ca/ca.key"]
        + [f"server/{name}" for name in (*common, "server.key", "server.crt")]
        + ["server/nodes/north/numbers.pub", "server/nodes/south/notes.pub"]
        + [f"sites/north/{name}" for name in (*site, "numbers.key")]
        + [f"sites/south/{name}" for name in (*site, "notes.key")]
    )
    for path in (root, *root.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600 if path.suffix == ".key" else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert (root / "sites/north/state").is_dir() and (root / "server/state").is_dir()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    found = check(root)
    assert found.problems == []


def test_no_key_of_a_site_is_at_the_server_or_at_another_site(made):
    found = files(made)
    own = {name: data for name, data in found.items() if name.endswith(".key")}
    assert len(own) == 4
    for name, data in own.items():
        assert [other for other, text in found.items() if data in text] == [name]


def test_a_second_time_everything_is_kept(made):
    before = files(made)
    done = init(made.parent / "consortium.toml", made)
    assert files(made) == before
    assert (done.made, done.updated, done.replaced) == ([], [], [])
    own = {name for name in secrets(made) if name.startswith("sites/") and name.endswith("/ca.crt")}
    assert set(done.kept) == secrets(made).keys() - own - {"server/ca.crt"}
    assert any("server certificate valid until" in note for note in done.notes)


def test_a_site_that_comes_later(made):
    before = files(made)
    done = init(write_consortium(made.parent, more=EAST), made)
    after = files(made)
    assert {name for name in before if before[name] != after[name]} == set(done.updated)
    assert set(done.updated) == {f"{one}/consortium.toml" for one in ("server", "sites/north", "sites/south")}
    assert set(done.made) == after.keys() - before.keys()
    assert {"sites/east/numbers.key", "sites/east/notes.key", "server/nodes/east/notes.pub"} <= set(done.made)
    assert open_server(made / "server").public_keys["east/notes"] == made / "server/nodes/east/notes.pub"
    assert check(made).problems == []
    assert [path.name for path in made.iterdir() if path.name.startswith((".new", ".old"))] == []


def test_keys_that_were_handed_over_are_not_made_anew(made):
    """The folder of a site is gone, as it should be, and so is the authority: a new site needs neither."""
    shutil.rmtree(made / "sites" / "north")
    shutil.rmtree(made / "ca")
    before = secrets(made / "server")
    done = init(write_consortium(made.parent, more=EAST), made)
    assert not (made / "sites" / "north").exists() and not (made / "ca").exists()
    assert before.items() <= secrets(made / "server").items()
    assert "north has its keys; hand it the new consortium.toml" in done.notes
    assert check(made).problems == []


def test_a_site_that_leaves_is_not_let_in(made):
    init(write_consortium(made.parent, more=EAST), made)
    done = init(write_consortium(made.parent), made)
    assert [note for note in done.notes if note.startswith("east")] == [
        "east (notes) is not in the consortium any more: its keys stay here and are not used",
        "east (numbers) is not in the consortium any more: its keys stay here and are not used",
    ]
    assert set(open_server(made / "server").public_keys) == {"north", "south"}


def test_a_new_server_certificate_and_the_same_nodes(made):
    file, later = made.parent / "consortium.toml", NOW + timedelta(days=SERVER_DAYS + 1)
    told = problems(file, made, now=later)
    assert len(told) == 1 and "expired on" in told[0] and "move server.crt and server.key away" in told[0]
    before = secrets(made)
    for name in ("server.crt", "server.key"):
        (made / "server" / name).unlink()
    hidden = made.parent / "stick"
    (made / "ca" / "ca.key").rename(hidden)
    told = problems(file, made, now=later)
    assert len(told) == 1 and "put it back from where it is kept" in told[0]
    hidden.rename(made / "ca" / "ca.key")
    done = init(file, made, now=later)
    assert done.made == ["server/server.key", "server/server.crt"]
    after = secrets(made)
    assert {name for name in before if before[name] != after[name]} == set(done.made)
    assert check(made, later).problems == []


def test_another_address_needs_another_certificate(made):
    told = problems(write_consortium(made.parent, address="fl.example.org:443"), made)
    assert len(told) == 1 and "and server.address has fl.example.org" in told[0]


def test_force_says_what_it_replaced_and_moves_it_aside(made):
    before = files(made)
    done = init(made.parent / "consortium.toml", made, force=True, now=NOW)
    assert set(done.replaced) == {
        name for name in secrets(made) if not name.startswith("replaced-") and not name.endswith("/ca.crt")
    } | {"ca/ca.crt"}
    assert done.aside == f"replaced-{NOW:%Y%m%d-%H%M%S}"
    for name in done.replaced:
        assert (made / done.aside / name).read_bytes() == before[name] != (made / name).read_bytes()
    assert files(made)["sites/north/site.toml"] == before["sites/north/site.toml"]
    assert check(made).problems == []
    assert stat.S_IMODE((made / done.aside).stat().st_mode) == 0o700


def test_what_cannot_be_written_leaves_all_as_it_was(made):
    (made / "sites" / "east").write_text("in the way")
    before = files(made)
    with pytest.raises(StorageError, match="sites/east"):
        init(write_consortium(made.parent, more=EAST), made)
    assert files(made) == before
    with pytest.raises(StorageError, match="sites/east"):
        init(write_consortium(made.parent, more=EAST), made, force=True)
    assert files(made) == before
    assert [path.name for path in made.iterdir() if path.name.startswith((".new", ".old", "replaced"))] == []


def test_a_full_disk_leaves_nothing(tmp_path):
    file, disk = write_consortium(tmp_path), tmp_path / "disk"
    command = (
        f"'{sys.executable}' -c 'from isogram.cli import app; app()' deploy init '{file}' --out '{disk}/made' 2>&1"
    )
    lines = on_disk(disk, command, "echo status $?", f"ls -A '{disk}'")
    assert lines[-1] == "status 4" and "No space left on device" in lines[0], lines


def test_an_interrupted_init_is_completed(made):
    """As if killed after a new site's private keys were in place and before anything else of it was."""
    file = write_consortium(made.parent)
    old = file.read_bytes()
    init(write_consortium(made.parent, more=EAST), made)
    before = files(made)
    shutil.rmtree(made / "server" / "nodes" / "east")
    (made / "sites" / "east" / "site.toml").unlink()
    (made / "server" / "consortium.toml").write_bytes(old)
    left = made / ".new-abc"
    left.mkdir()
    init(file, made)
    assert files(made) == before and not left.exists()


@pytest.mark.parametrize(
    "name", ["ca/ca.crt", "server/server.crt", "server/nodes/north/numbers.pub", "sites/north/numbers.key"]
)
def test_a_damaged_file_is_told_and_not_replaced(made, name):
    (made / name).write_text("damaged")
    before = files(made)
    told = problems(write_consortium(made.parent, more=EAST), made)
    assert any(str(made / name) in text for text in told), told
    assert files(made) == before


def test_folders_of_others_are_left_alone(made, tmp_path):
    file = made.parent / "consortium.toml"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    for force in (False, True):
        assert "is not empty and no consortium's folder" in problems(file, other, force=force)[0]
    assert "is a file" in problems(file, file)[0]
    file.write_text(file.read_text().replace("two-hospitals", "three-hospitals"))
    assert "is the folder of 'two-hospitals', not of 'three-hospitals'" in problems(file, made)[0]
    shutil.rmtree(made / "server")
    assert "an authority and no server/" in problems(file, made)[0]


def test_two_at_once(made):
    with FileLock(made / ".lock"):
        assert "another `isogram deploy init`" in problems(made.parent / "consortium.toml", made)[0]


def test_units(made, tmp_path):
    for folder, name, command in (
        (made / "server", "server", "server /opt/isogram/server"),
        (made / "sites" / "north", "north", "node /opt/isogram/north/site.toml"),
    ):
        text = (folder / "isogram.service").read_text()
        unit = configparser.RawConfigParser(strict=False)
        unit.optionxform = str
        unit.read_string(text)
        service = dict(unit["Service"])
        assert service["ExecStart"] == f"/opt/isogram/venv/bin/isogram deploy {command}"
        assert service["ReadWritePaths"] == f"/opt/isogram/{name}/state"
        for key, value in (("NoNewPrivileges", "yes"), ("ProtectSystem", "strict"), ("PrivateTmp", "yes")):
            assert service[key] == value
        assert service["Restart"] == "always" and int(service["RestartSec"]) > 0
        assert {"Environment=FLWR_TELEMETRY_ENABLED=0", "Environment=FLWR_DISABLE_UPDATE_CHECK=1"} <= set(
            text.split("\n")
        )
        if analyze := shutil.which("systemd-analyze"):
            here = tmp_path / f"isogram-{name}.service"
            here.write_text(text.replace("/opt/isogram/venv/bin/isogram", "/bin/true"))
            done = subprocess.run([analyze, "verify", str(here)], capture_output=True, text=True, check=False)
            assert here.name not in done.stderr, done.stderr


def test_the_command(tmp_path):
    file = write_consortium(tmp_path / "a")
    shown = RUN.invoke(app, ["deploy", "init", str(file), "--out", str(tmp_path / "b")])
    assert shown.exit_code == 0, shown.output
    assert "sites/north/: to north (it@north.example)" in shown.output and "Keep it offline" in shown.output
    assert "server certificate valid until" in shown.output
    write_consortium(tmp_path / "a", more=EAST)
    shown = RUN.invoke(app, ["deploy", "init", str(file), "-o", str(tmp_path / "b"), "--json"])
    assert shown.exit_code == 0 and "sites/east/notes.key" in json.loads(shown.output)["made"]
    shown = RUN.invoke(app, ["deploy", "init", str(file), "-o", str(tmp_path / "b"), "--force"])
    assert shown.exit_code == 0 and "anew, the old ones are in replaced-" in shown.output
    file.write_text("name = 3")
    wrong = RUN.invoke(app, ["deploy", "init", str(file)])
    assert wrong.exit_code == 2 and "error: " in wrong.output and "Traceback" not in wrong.output
    assert RUN.invoke(app, ["deploy", "check", str(tmp_path / "b")]).exit_code == 0
    assert RUN.invoke(app, ["deploy", "check", str(tmp_path / "a")]).exit_code == 2
