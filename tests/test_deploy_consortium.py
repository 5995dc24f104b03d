import re
import unicodedata

import pytest
from deployments import EAST, write_consortium

from isogram.deploy.consortium import read_consortium
from isogram.deploy.names import alike, parse_address
from isogram.errors import ConfigError


def problems(path):
    with pytest.raises(ConfigError) as caught:
        read_consortium(path)
    return list(caught.value.problems)


def changed(path, old, new):
    text = path.read_text()
    assert old in text, old
    path.write_text(text.replace(old, new))
    return path


def test_a_consortium_is_a_run_with_a_node_per_site_and_modality(tmp_path):
    found = read_consortium(write_consortium(tmp_path, more=EAST))
    assert found.nodes == {
        "north": ("north", "numbers"),
        "south": ("south", "notes"),
        "east/numbers": ("east", "numbers"),
        "east/notes": ("east", "notes"),
    }
    assert found.run.name == "two-hospitals" and found.run.data == "silos" and found.run.train.rounds == 2
    assert found.run.silos.modality("numbers").kind == "table"
    assert (found.min_nodes, found.min_per_modality, found.waits.join) == (2, 1, 600)
    assert found.server.host == "localhost" and found.server.listen == "127.0.0.1:9092"


def test_everything_wrong_is_told_at_once_and_nothing_else(tmp_path):
    path = write_consortium(
        tmp_path, address="https" + "://fl.example.org:443", more='[[sites]]\nname = "NORTH"\nmodality = "nots"\n'
    )
    changed(path, "rounds = 2", 'rounds = -2\ntrunks = 1\n[run.silos]\nanchors = "here"')
    changed(path, 'anchors = "' + "0" * 64, 'min_nodes = 9\nwait = 3\nanchors = "0abc')
    found = problems(path)
    wanted = [
        "anchors: '0abc' is no hash of an anchor set; write what `isogram anchors hash",
        "unknown key 'wait'; did you mean 'waits'",
        "server.address: .* is a link, not an address; write HOST:PORT",
        r"\[\[sites\]\]: 'north' and 'NORTH' differ in case",
        "site 'NORTH': unknown modality 'nots'; did you mean 'notes'",
        "min_nodes = 9, and the sites have 3 nodes",
        r"\[run\] silos.anchors: each site says",
        r"\[run\] train.rounds = -2: should be greater",
        r"\[run\] unknown key 'train.trunks'",
    ]
    assert len(found) == len(wanted), found
    for pattern in wanted:
        assert sum(bool(re.search(pattern, text)) for text in found) == 1, (pattern, found)
    assert all(text.startswith(f"{path}: ") for text in found)


@pytest.mark.parametrize("other", ["north", "North", "\uff4e\uff4f\uff52\uff54\uff48"])
def test_two_sites_with_one_name(tmp_path, other):
    found = problems(write_consortium(tmp_path, more=f'[[sites]]\nname = "{other}"\nmodality = "notes"\n'))
    assert any("'north'" in text and "give each a name of its own" in text for text in found), found


def test_names_are_alike_however_unicode_writes_them():
    composed = "m\u00fcnchen"
    apart = unicodedata.normalize("NFD", composed).upper()
    assert composed != apart and alike([composed, apart, "bonn"]) == [[composed, apart]]


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-a", "a.b", "m\u00fcnchen", "x" * 64, "a\\nb"])
def test_names_that_are_no_folders_or_hosts(tmp_path, name):
    found = problems(changed(write_consortium(tmp_path), 'name = "south"', f'name = "{name}"'))
    assert len(found) == 1 and re.search(r"\[\[sites\]\] 2.*is to name folders and hosts", found[0]), found


def test_a_modality_that_nobody_holds(tmp_path):
    found = problems(
        changed(
            write_consortium(tmp_path), "[modalities.notes]", "[modalities.sound]\nkind = 'audio'\n[modalities.notes]"
        )
    )
    assert len(found) == 1 and "modalities.sound: no site holds it" in found[0], found


def test_a_kind_that_does_not_exist(tmp_path):
    found = problems(changed(write_consortium(tmp_path), 'kind = "text"', 'kind = "texts"'))
    assert len(found) == 1 and "modalities.notes: there is no kind of data 'texts'" in found[0], found


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ("minilmm", "modalities.notes: there is no encoder 'minilmm'; did you mean 'minilm'?"),
        ("lite0", "modalities.notes: encoder 'lite0' reads image, not text; give builtin, minilm"),
    ],
)
def test_an_encoder_that_does_not_exist(tmp_path, encoder, told):
    path = changed(write_consortium(tmp_path), 'kind = "text"', f'kind = "text"\nencoder = "{encoder}"')
    (found,) = problems(path)
    assert found.startswith(f"{path}: {told}"), found


def test_an_entry_is_named_by_number_and_name(tmp_path):
    found = problems(changed(write_consortium(tmp_path), 'contact = "it@north.example"', "contact = 5\nmodalty = 1"))
    assert sorted(text.split(": ", 1)[1] for text in found) == [
        "[[sites]] 1 ('north'): sites.contact = 5: should be a valid string",
        "[[sites]] 1 ('north'): unknown key 'sites.modalty'; did you mean 'sites.modality'?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[run.train]", "[waits]\njoin = 1e9\n[run.train]", "waits.join"),
        ("[run.train]", "[waits]\nanswer = 0\n[run.train]", "waits.answer"),
        ("[server]", '[server]\nlisten = "0.0.0.0:9092"', "server.listen: '0.0.0.0:9092' is open to others"),
        ("[server]", '[server]\nlisten = "10.0.0.3:9092"', "asks nobody for a password"),
        ('kind = "text"', 'kind = "text"\nencoder = "hf:./mine"', "a folder of one machine"),
        ("rounds = 2", 'device = "cuda"', "[run] train.device: each site says it in its own site.toml"),
        ("[run.train]", "[run]\nthreads = 2\n[run.train]", "[run] threads: each site says it"),
        ("[run.train]", '[run.model]\ntrunk = "./mine"\n[run.train]', "a folder of one machine"),
        (
            "[run.train]",
            "[run.privacy]\nepsilon = 1.0\n[run.average]\nrobust = 'median'\n[run.train]",
            "average.robust",
        ),
        ('modality = "notes"', 'modality = ["notes", 5]', "[[sites]] 2 ('south'): sites.modality.1 = 5: should be"),
        ("[server]", "min_per_modality = 2\n[server]", "fewer sites hold 'numbers', 'notes'"),
    ],
)
def test_what_is_refused(tmp_path, old, new, told):
    path = write_consortium(tmp_path)
    text = path.read_text()
    if new.startswith("min_per"):
        path.write_text("min_per_modality = 2\n" + text)
    else:
        changed(path, old, new)
    found = problems(path)
    assert len(found) == 1 and told in found[0], found


def test_a_consortium_of_nobody(tmp_path):
    path = tmp_path / "consortium.toml"
    path.write_text('name = "a"\nanchors = "x"\nsites = []\nmodalities = {}\nserver = { address = "a:1" }')
    assert [text.removeprefix(f"{path}: ") for text in problems(path)] == [
        "anchors: 'x' is no hash of an anchor set; write what `isogram anchors hash FOLDER` prints",
        "modalities: is empty; name at least one",
        "sites: is empty; name at least one",
    ]


def test_one_node_is_no_federation(tmp_path):
    path = write_consortium(tmp_path)
    text = path.read_text()
    south, run = text.index('[[sites]]\nname = "south"'), text.index("[run.train]")
    path.write_text((text[:south] + text[run:]).replace("[modalities.notes]\n", "").replace('kind = "text"\n', ""))
    found = problems(path)
    assert len(found) == 1 and "min_nodes = 2, and the sites have 1 nodes" in found[0], found


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("fl.example.org:443", "fl.example.org"),
        ("FL.Example.org:1", "fl.example.org"),
        ("192.0.2.7:65535", "192.0.2.7"),
        ("[2001:db8:0::7]:443", "2001:db8::7"),
    ],
)
def test_addresses(text, host):
    assert parse_address(text) == (host, int(text.rpartition(":")[2]))


@pytest.mark.parametrize(
    "text",
    [
        *("fl.example.org", ":443", "fl.example.org:0", "fl.example.org:65536", "fl.example.org:x", "fl.org:443/x"),
        *("::1:443", "[::1:443", "[127.0.0.1]:443", "300.1.1.1:443", "0.0.0.0:443", "[::]:443", "127.1:443"),
        *("a_b.org:443", "fl..org:443", "fl.org.:443", "-a.org:443", "m\u00fcnchen.de:443", "a b:443"),
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="write|name the address"):
        parse_address(text)


@pytest.mark.parametrize("content", [None, b"\xff", b"name = "])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "consortium.toml"
    if content is not None:
        path.write_bytes(content)
    assert len(problems(path)) == 1
    assert len(problems(tmp_path)) == 1
