import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deployments import EAST, write_consortium, write_data
from typer.testing import CliRunner

from isogram.cli import app
from isogram.deploy.check import check, open_server, open_site
from isogram.deploy.init import init
from isogram.deploy.keys import AUTHORITY_DAYS
from isogram.errors import ConfigError

RUN = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture
def folder(tmp_path):
    """A consortium's folder with a site east that holds both modalities; data and anchors beside it."""
    anchors = write_data(tmp_path / "data")
    return init(write_consortium(tmp_path, anchors=anchors, more=EAST)).folder.path


def fill_in(folder, name):
    """The site's own file, as init wrote it, with real paths in the place of those to fill in."""
    path = folder / "sites" / name / "site.toml"
    text = path.read_text()
    for what, place in (("anchors", "anchors"), ("numbers", "numbers.csv"), ("notes", "notes.csv")):
        text = text.replace(f"FILL-IN/{what}", f"{folder.parent}/data/{place}")
    path.write_text(text)
    return path


def problems(path, call=open_site, **named):
    with pytest.raises(ConfigError) as caught:
        call(path, **named)
    return list(caught.value.problems)


def test_the_file_that_init_wrote_filled_in(folder):
    site = open_site(fill_in(folder, "north"))
    assert list(site.nodes) == ["north"] and site.key("north") == folder / "sites/north/numbers.key"
    assert site.nodes["north"].data == folder.parent / "data" / "numbers.csv"
    assert site.state == folder / "sites/north/state"
    assert site.config.silos.anchors == folder.parent / "data" / "anchors"
    assert [(node.name, node.modality) for node in site.config.silos.nodes] == [("north", "numbers")]
    assert site.config.train.rounds == 2 and site.config.train.device == "cpu"


def test_a_site_of_two_modalities_has_a_node_for_each(folder):
    site = open_site(fill_in(folder, "east"))
    assert list(site.nodes) == ["east/numbers", "east/notes"]
    assert site.key("east/notes") == folder / "sites/east/notes.key"


def test_a_folder_that_was_moved_to_another_machine(folder, tmp_path):
    fill_in(folder, "north")
    moved = tmp_path / "elsewhere"
    shutil.move(folder / "sites" / "north", moved)
    assert open_site(moved / "site.toml").key("north") == moved / "numbers.key"


def test_data_are_read_as_the_settings_say(folder):
    from isogram.data.silos.check import check_config

    path = fill_in(folder, "south")
    path.write_text(path.read_text().replace('# column = "text"', 'column = "notes"'))
    (found,) = check_config(open_site(path).config, None, lambda *_: None)
    assert (found.node, found.rows, found.items, found.problems) == ("south", 5, 5, ())


def test_a_file_that_is_not_filled_in(folder):
    path = folder / "sites/north/site.toml"
    assert problems(path) == [
        f"{path}: data of numbers: no file or folder {path.parent}/FILL-IN/numbers (there is {path.parent}); correct "
        "the path",
        f"{path}: anchors: no file or folder {path.parent}/FILL-IN/anchors (there is {path.parent}); correct the path",
    ]


def test_everything_wrong_is_told_at_once(folder):
    path = fill_in(folder, "north")
    path.write_text(
        path.read_text()
        .replace('name = "north"', 'thread = 2\nname = "nort"')
        .replace('device = "cpu"', "device = 3")
        .replace("# column", "name = 'x'\ncolum = 'a'\n# column", 1)
    )
    (path.parent / "numbers.key").chmod(0o644)
    told = [text.removeprefix(f"{path}: ") for text in problems(path)]
    assert sorted(told[:4]) == [
        "[[nodes]] 1 ('nort'): unknown key 'nodes.colum'; did you mean 'nodes.column'?",
        "[[nodes]] 1: name = 'x' is the site's own; leave it out",
        "device = 3: should be a valid string",
        "unknown key 'thread'; did you mean 'threads'?",
    ]
    assert len(told) == 5 and "chmod 600" in told[4]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            'name = "north"',
            'name = "nort"',
            "two-hospitals has no site 'nort'; did you mean 'north'?",
        ),
        (
            'modality = "numbers"',
            'modality = "notes"',
            "modality 'notes' is not this site's",
        ),
        ('state = "state"', 'state = "{data}/numbers.csv"', "is a file; name a folder"),
        ('state = "state"', 'state = "{data}/numbers.csv/x"', "is a file; name a folder"),
        ('{data}/anchors"', '{data}/numbers.csv"', "is no folder; name the one that holds anchors.csv"),
        ('{data}/anchors"', '{data}"', "no file or folder {data}/anchors.csv"),
        ('device = "cpu"', 'device = "gpu"', "'gpu' cannot be used here"),
        ("threads = 1", "threads = 0", "threads = 0: should be greater"),
    ],
)
def test_what_is_refused(folder, old, new, told):
    path, data = fill_in(folder, "north"), folder.parent / "data"
    text, old = path.read_text(), old.replace("{data}", str(data))
    assert old in text
    path.write_text(text.replace(old, new.replace("{data}", str(data))))
    found = problems(path)
    assert any(told.replace("{data}", str(data)) in one for one in found), found
    assert all(one.startswith(f"{path}: ") for one in found)


def test_all_places_that_are_wrong_are_told_beside_wrong_values(folder):
    path = fill_in(folder, "north")
    text = path.read_text().replace('state = "state"', 'state = "site.toml"').replace("threads = 1", 'threads = "many"')
    text = text.replace('device = "cpu"', 'device = "abacus"').replace("numbers.csv", "nowhere.csv")
    path.write_text(text)
    anchors = folder.parent / "data" / "anchors" / "anchors.csv"
    anchors.write_text(anchors.read_text().replace("number 2", "number two"))
    told = problems(path)
    assert len(told) == 5, told
    for words in ("threads = 'many'", "data of numbers: no file", "is a file; name a folder", "device = 'abacus'"):
        assert sum(words in text and text.startswith(f"{path}: ") for text in told) == 1, (words, told)
    assert sum("is another anchor set" in text for text in told) == 1


def test_a_device_is_told_by_the_file_s_own_key_with_what_is_usable(folder, monkeypatch):
    import torch

    path = fill_in(folder, "north")
    path.write_text(path.read_text().replace('device = "cpu"', 'device = "cuda:77"'))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (told,) = problems(path)
    assert told.startswith(f"{path}: device = 'cuda:77' cannot be used here") and "train." not in told
    assert "; use cpu" in told and "cuda" not in told.rpartition("; use")[2]


def test_another_site_s_name_is_told_and_not_what_follows(folder):
    path = fill_in(folder, "north")
    path.write_text(path.read_text().replace('name = "north"', 'name = "south"'))
    assert problems(path) == [
        f"{path}: name = 'south', and this is the folder of 'north': numbers.key is in it; correct the name"
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('state = "state"', "state = 3", "state = 3: should be a path: text in quotes"),
        ("threads = 1", 'threads = "two"', "threads = 'two': should be a valid integer"),
        (
            'modality = "numbers"',
            "",
            "nodes.modality is missing: what its items are, as the anchor set calls it",
        ),
        ('modality = "numbers"', 'modality = ""', "nodes.modality = '': should be text that can be printed"),
    ],
)
def test_wrong_values_are_told_in_plain_words(folder, old, new, told):
    path = fill_in(folder, "north")
    path.write_text(path.read_text().replace(old, new, 1))
    found = problems(path)
    assert any(told in text for text in found), found
    assert not any(word in "".join(found) for word in ("pathlib", "Input", "parse", "^[")), found


def test_folders_and_files_that_are_swapped_are_called_by_their_name(folder):
    site, server = folder / "sites/north", folder / "server"
    for call, path, told in (
        (open_server, site, f"{site} is a site's folder; name the server's"),
        (open_server, folder, f"{folder} is the coordinator's whole folder; name the server's, {server}"),
        (open_server, folder / "none", "no folder"),
        (open_site, server, f"{server} is a server's folder; name a site's own file"),
        (open_site, site, f"{site} is a site's folder; name a site's own file, site.toml in it"),
        (open_site, server / "consortium.toml", "is a consortium's file; name a site's own, site.toml"),
        (init, folder, f"{folder} is the coordinator's whole folder, not a consortium's file"),
        (init, site / "site.toml", "is a site's file; name the consortium's, consortium.toml"),
        (init, folder.parent, f"is a folder, not a consortium's file; name {folder.parent / 'consortium.toml'}"),
    ):
        (found,) = problems(path, call)
        assert told in found, found
    shown = RUN.invoke(app, ["deploy", "status", str(site)])
    assert shown.exit_code == 2 and "is a site's folder" in shown.output


def test_state_among_the_data(folder):
    path, data = fill_in(folder, "south"), folder.parent / "data"
    path.write_text(path.read_text().replace(f"{data}/notes.csv", str(data)).replace('"state"', f'"{data}/state"'))
    assert any("lies in the data of notes; name a folder outside" in text for text in problems(path))


def test_another_anchor_set(folder):
    path = fill_in(folder, "north")
    anchors = folder.parent / "data" / "anchors" / "anchors.csv"
    anchors.write_text(anchors.read_text().replace("number 2", "number two"))
    told = problems(path)
    assert len(told) == 1 and "is another anchor set than the consortium's (hash " in told[0]


def test_keys_of_a_site_are_checked(folder):
    path = fill_in(folder, "east")
    (path.parent / "notes.key").unlink()
    (path.parent / "numbers.key").write_text("damaged")
    shutil.copy(folder / "server/server.crt", path.parent / "ca.crt")
    told = problems(path)
    assert len(told) == 3 and "is no authority's certificate" in told[0]
    assert "is no private key that the engine reads" in told[1] and "no file" in told[2]


def test_an_authority_that_is_over(folder):
    path = fill_in(folder, "north")
    told = problems(path, now=datetime.now(UTC) + timedelta(days=AUTHORITY_DAYS + 1))
    assert len(told) == 1 and "expired on" in told[0]


def test_a_site_without_the_consortium(folder):
    path = fill_in(folder, "north")
    (path.parent / "consortium.toml").unlink()
    told = problems(path)
    assert len(told) == 2 and "no file" in told[0] and "keys names the folder of consortium.toml" in told[1]


def test_a_server_lets_only_its_own_nodes_in(folder):
    server = open_server(folder / "server")
    assert set(server.public_keys) == {"north", "south", "east/numbers", "east/notes"}
    assert all(path.exists() for path in server.public_keys.values())
    shutil.copy(server.public_keys["north"], server.public_keys["south"])
    told = problems(folder / "server", open_server)
    assert told == [f"{server.public_keys['south']} is the key of north, too; each node needs its own"]
    told = check(folder).problems
    assert len(told) == 2 and "is not the public key of" in told[1]


def test_the_command(folder):
    path = fill_in(folder, "north")
    for what in (path, path.parent):
        shown = RUN.invoke(app, ["deploy", "check", str(what)])
        assert shown.exit_code == 0 and shown.output.endswith("nothing wrong\n"), shown.output
        assert "authority certificate valid until" in shown.output and "server localhost:9092" in shown.output
    shown = RUN.invoke(app, ["deploy", "check", str(folder / "server"), "--json"])
    assert shown.exit_code == 0 and json.loads(shown.output)["problems"] == []
    (folder / "server" / "server.key").chmod(0o644)
    shown = RUN.invoke(app, ["deploy", "check", str(folder / "server")])
    assert shown.exit_code == 2 and "error: " in shown.output and "chmod 600" in shown.output
    shown = RUN.invoke(app, ["deploy", "check", str(Path(folder, "nothing"))])
    assert shown.exit_code == 2 and "`isogram deploy init` writes them" in shown.output
