"""A consortium behind the proxy of docs/deploy.md: a run goes through it, and nothing but the nodes' path does."""

import http.client
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from consortium import SITES, Consortium, differences
from loopback import until

from isogram.engine.commands import free_port

pytestmark = pytest.mark.deploy

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"

AROUND = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{server}
}}
"""


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """The consortium, and the port of its proxy."""
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    three = Consortium(folder / "consortium", rounds=1, outside=port)
    found = re.search(r"^nginx:\n\n```\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert found is not None
    server = found[1]
    for documented, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "fl.example.org": "localhost",
        "/opt/isogram/server": str(three.paths.server.path.resolve()),
        "127.0.0.1:9092": f"127.0.0.1:{three.port}",
    }.items():
        assert documented in server
        server = server.replace(documented, here)
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, server=server))
    with (folder / "nginx.said").open("wb") as said:
        proxy = subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=said)
    try:
        until(lambda: (folder / "nginx.pid").exists() or proxy.poll() is not None, 30, "the proxy")
        assert proxy.poll() is None, (folder / "nginx.said").read_text()
        three.start()
        yield three, port
    finally:
        three.stop()
        proxy.terminate()
        proxy.wait(30)


def status(three, port, path):
    """What a path answers, by a client that trusts the consortium's authority; written as it stands."""
    trusted = ssl.create_default_context(cafile=str(three.paths.server.path / "ca.crt"))
    connection = http.client.HTTPSConnection("localhost", port, context=trusted, timeout=30)
    try:
        connection.putrequest("POST", path, skip_accept_encoding=True)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_a_run_goes_through_the_proxy(behind):
    three, _ = behind
    said = three.command("start", three.paths.server.path, "--run", "one", "--json", bound=300)
    assert '"complete": true' in said.splitlines()[-1]
    assert differences(three.model("one"), three.expected()) == []
    for site in SITES:
        assert (three.paths.site(site).path / "state" / site / "one" / "model.safetensors").exists()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_control_is_not_reached_through_the_proxy_however_it_is_written(behind):
    three, port = behind
    inside = "/v1/control/list-runs"
    assert status(three, three.port, inside) != 404, "the engine's own port has it"
    hidden = (
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/%2e%2e%2fcontrol/list-runs",
    )
    for path in (inside, "/v1/runtime/", "//v1/control/list-runs", "/v1//control/list-runs", *hidden, "/"):
        assert status(three, port, path) in (400, 404), path
    assert status(three, port, "/v1/fleet/pull-messages") not in (404, 502)
