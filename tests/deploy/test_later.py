"""A consortium that changes while its engine's database stays: what docs/deploy.md says under "Later", and restarts.

Each test goes on from the one before.
"""

import re
import shutil
from pathlib import Path

import pytest
from consortium import CONSORTIUM, Consortium
from loopback import running, until

pytestmark = pytest.mark.deploy

RUN = 300
"""Seconds for a run, on a machine that does other things too."""

WHAT = "may come in", "may not come in any more"

WEST = '[[sites]]\nname = "west"\nmodality = "c"\n', '[modalities.c]\nkind = "table"\n'


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    with running(Consortium(tmp_path_factory.mktemp("consortium"), min_nodes=2, rounds=1)) as one:
        yield one


def end(three, name):
    process = three.running[name]
    process.terminate()
    assert process.wait(30) == 0


def server_again(three):
    """Started anew in its folder; who was let in, and who was put out."""
    end(three, "server")
    (three.folder / "server.said").unlink()
    three.start_server()
    return [set(re.findall(rf"(.*) {what}\n", three.said("server"))) for what in WHAT]


def ready(three, run):
    """Nodes that a new run ends with."""
    three.command("start", three.paths.server.path, "--run", run, "--json", bound=RUN)
    nodes = three.state(run)["nodes"]
    assert all(node["is"] == "ready" for node in nodes.values())
    return set(nodes)


def forget(three, site, modality):
    """Both halves of a node's key, at the coordinator."""
    (three.paths.site(site).path / f"{modality}.key").unlink()
    three.paths.server.public_key(site, modality).unlink()


def init(three, *words):
    return three.command("init", three.folder / CONSORTIUM, *words)


def test_the_page_says_later_what_is_done_here():
    text = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    later = text.partition("**Later.**")[2].partition("\n\nStarted again")[0]
    assert re.findall(r"^\| ([^|(]+?) [|(]", later, re.M)[2:] == [
        "another site",
        "a new server certificate",
        "a node's key was lost or seen",
        "a site leaves",
        "everything anew",
    ]


def test_a_server_is_started_again(three):
    assert ready(three, "one") == {"north", "south", "west"}
    assert server_again(three) == [set(), set()]
    assert ready(three, "two") == {"north", "south", "west"}


def test_a_key_made_anew_and_a_site_that_leaves(three):
    seen = three.paths.site("south").path.with_name("seen")
    shutil.copytree(three.paths.site("south").path, seen, ignore=shutil.ignore_patterns("state"))
    forget(three, "south", "b")
    file = three.folder / CONSORTIUM
    text = file.read_text()
    for words in WEST:
        text = text.replace(words, "")
    file.write_text(text)
    init(three)
    end(three, "south")
    assert server_again(three) == [{"node south"}, {"the old key of node south", "node west"}]
    three.start_site("south")
    three.begin("seen", "node", seen / "site.toml")
    assert ready(three, "three") == {"north", "south"}
    until(lambda: "refuses node west: its key" in three.said("west"), 60, "the refusal of who has left")
    until(lambda: "refuses node south: its key" in three.said("seen"), 60, "the refusal of the old key")
    end(three, "west")
    end(three, "seen")


def test_a_site_that_comes_back_needs_another_key_and_the_server_another_certificate(three):
    file = three.folder / CONSORTIUM
    file.write_text(file.read_text() + "\n" + "\n".join(WEST))
    init(three)
    end(three, "server")
    refused = three.ask("server", three.paths.server.path, bound=120)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "west/c.pub was the key of node west and was put out" in refused.stderr + refused.stdout
    forget(three, "west", "c")
    for path in (three.paths.server.certificate, three.paths.server.key):
        path.rename(path.with_suffix(".old"))
    init(three)
    (three.folder / "server.said").unlink()
    three.start_server()
    three.start_site("west")
    before = len(three.said("north"))
    assert ready(three, "four") == {"north", "south", "west"}
    assert "certificate" not in three.said("north")[before:]


def test_everything_anew(three):
    init(three, "--force")
    everybody = {"north", "south", "west"}
    assert server_again(three) == [{f"{what} {name}" for name in everybody} for what in ("node", "the old key of node")]
    assert "Traceback" not in "".join(three.said(name) for name in (*everybody, "server", "seen"))
