"""Who may come in, what other pages cannot do, and what the page may load."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from showroom import HERE

from isogram.serve import app as app_module
from isogram.serve.app import create_app
from isogram.serve.gate import HEADERS
from isogram.serve.start import Door

TOKEN = "a token of a good length"

PROXY = "search.example"
"""Name of a host that passes questions on."""


@pytest.fixture(scope="module")
def guarded(site):
    return create_app(site, token=TOKEN)


@pytest.mark.parametrize("address", ["/", "/page/app.js", "/api/site", "/media/0/0", "/nowhere"])
def test_without_the_token_nothing_is_sent(guarded, address):
    client = TestClient(guarded, base_url=HERE)
    for answer in (
        client.get(address),
        client.get(address, params={"token": "a token of another length"}),
        client.get(address, headers={"authorization": "Bearer wrong"}),
        client.get(address, headers={"cookie": "isogram=x"}),
        client.post(address),
        client.post(address, params={"token": TOKEN}),
    ):
        assert answer.status_code == 401 and "token is needed" in answer.text and TOKEN not in answer.text
        assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


def test_the_token_opens_once_and_a_cookie_from_then_on(guarded):
    client = TestClient(guarded, base_url=HERE)
    first = client.get("/", params={"token": TOKEN})
    cookie = first.headers["set-cookie"]
    assert first.status_code == 200 and 'content="0;url=/"' in first.text
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie + first.text
    assert client.get("/api/site").status_code == 200 and "Isogram" in client.get("/").text
    client.cookies.clear()
    assert client.get("/api/site").status_code == 401
    assert client.get("/api/site", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_another_start_has_another_cookie(site, guarded):
    client = TestClient(guarded, base_url=HERE)
    cookie = client.get("/", params={"token": TOKEN}).headers["set-cookie"].split(";")[0]
    other = TestClient(create_app(site, token=TOKEN), base_url=HERE)
    assert client.get("/api/site", headers={"cookie": cookie}).status_code == 200
    assert other.get("/api/site", headers={"cookie": cookie}).status_code == 401


@pytest.mark.parametrize("token", ["plus+and&hash#or/=?%41 ", "a-longer-schlüssel"])
def test_the_address_that_is_printed_opens_the_page_whatever_letters_the_token_has(site, token):
    door = Door.of("127.0.0.1", 0, token)
    with door.open() as listening:
        address = door.address(listening)
    client = TestClient(create_app(site, token=token), base_url=address.partition("?")[0])
    assert client.get(address).status_code == 200 and client.get("/api/site").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8470", 200), ("localhost:8470", 200), ("evil.example", 400), ("127.0.0.1.evil.example", 400)],
)
def test_names_that_are_pointed_here_are_turned_away(client, host, status):
    assert client.get("/api/site", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": HERE},
    ],
)
def test_other_pages_cannot_post(client, headers):
    words = {"content-type": "text/plain"}
    answer = client.post("/api/near?node=notes", content=b"red", headers=words | headers)
    assert answer.status_code == 403 and "another page" in answer.json()["error"]
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    assert client.post("/api/near?node=notes", content=b"red", headers=words | own).status_code == 200


@pytest.mark.parametrize("address", ["/api/site", "/api/banks/0/items/0/near", "/media/0/0", "/page/app.js"])
def test_other_pages_cannot_ask(client, address):
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
    ):
        assert client.get(address, headers=headers).status_code == 403
    for headers in ({}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert client.get(address, headers=headers).status_code == 200
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link leads to the page


def test_with_a_token_it_answers_under_a_proxys_name(guarded):
    """The cookie is of one name alone: a page that points another name here has none, and does not know the token."""
    client = TestClient(guarded, base_url=f"https://{PROXY}")
    assert client.get("/api/site").status_code == 401
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    own = {"origin": f"https://{PROXY}", "sec-fetch-site": "same-origin", "content-type": "text/plain"}
    assert client.get("/api/site").status_code == 200
    assert client.post("/api/near?node=notes", content=b"red", headers=own).status_code == 200
    assert TestClient(guarded, base_url="https://evil.example", cookies={}).get("/api/site").status_code == 401


def test_no_answer_allows_other_origins(client):
    for answer in (client.get("/api/site", headers={"origin": "http://evil.example"}), client.options("/api/near")):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers(client):
    for address in ("/", "/page/page.css", "/api/site", "/media/0/0", "/media/1/0", "/nowhere", "/media/0/99"):
        answer = client.get(address)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (address, name)
        assert "server" not in answer.headers


def test_the_policy_lets_nothing_in_from_elsewhere():
    rules = dict(rule.strip().split(" ", 1) for rule in HEADERS["Content-Security-Policy"].split(";"))
    assert rules["default-src"] == "'none'"
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources == {"'none'", "'self'", "blob:"} and rules["script-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"


def test_no_served_file_names_another_server(client):
    folder = Path(app_module.__file__).parent / "page"
    files = sorted(path.name for path in folder.iterdir())
    assert {"app.js", "index.html", "page.css"} <= set(files)
    for name in files:
        answer = client.get("/" if name == "index.html" else f"/page/{name}")
        assert answer.status_code == 200, name
        foreign = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", answer.text)
        assert [address for address in foreign if address != "http://www.w3.org/2000/svg"] == [], name
        assert not re.search(r"style=|\son\w+=|<script>|@import|innerHTML|eval\(", answer.text), name
