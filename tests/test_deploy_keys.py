import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from isogram.deploy.keys import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    check_authority,
    check_node,
    check_public,
    check_server,
    make_authority,
    make_node,
    make_server,
    public_of,
    registered_form,
)

NOW = datetime.now(UTC)


def authority(folder, name="ca", now=NOW):
    key, certificate = make_authority("two-hospitals", now)
    return write(folder / f"{name}.key", key), write(folder / f"{name}.crt", certificate)


def server(folder, signer, host="localhost", now=NOW, name="server"):
    key, certificate = signer
    made = make_server(key.read_bytes(), certificate.read_bytes(), "two-hospitals", host, now)
    return write(folder / f"{name}.key", made[0]), write(folder / f"{name}.crt", made[1])


def write(path, data):
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "keys"
    ca_key, ca = authority(folder)
    key, certificate = server(folder, (ca_key, ca), "fl.example.org")
    return SimpleNamespace(folder=folder, ca_key=ca_key, ca=ca, key=key, certificate=certificate)


def of_server(made, host="fl.example.org", now=NOW):
    problems = []
    notes = check_server(made.certificate, made.key, made.ca, host, now, problems)
    return notes, problems


def shake(key, certificate, trusted, name):
    """A handshake on loopback: what the server read from a client that trusts one authority and asks for one name."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate, key)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of newer Pythons
    theirs.load_verify_locations(trusted)
    got = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)

        def serve():
            connection, _ = listener.accept()
            connection.settimeout(5)
            try:
                with ours.wrap_socket(connection, server_side=True) as secure:
                    got.append(secure.recv(9))
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=5) as raw,
                theirs.wrap_socket(raw, server_hostname=name) as secure,
            ):
                secure.sendall(b"anchors")
        finally:
            thread.join()
    return got


@pytest.mark.parametrize("name", ["fl.example.org", "localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_authority_connects(made, name):
    assert shake(made.key, made.certificate, made.ca, name) == [b"anchors"]


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_the_server_has_an_ip_address(made, host):
    key, certificate = server(made.folder, (made.ca_key, made.ca), host, name="other")
    assert shake(key, certificate, made.ca, host) == [b"anchors"]


def test_another_authority_is_refused(made, tmp_path):
    _, other = authority(tmp_path / "others")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake(made.key, made.certificate, other, "fl.example.org")


def test_another_name_is_refused(made):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(made.key, made.certificate, made.ca, "fl.example.com")


@pytest.mark.parametrize(
    ("days", "why"), [(-SERVER_DAYS - 1, "certificate has expired"), (2, "certificate is not yet valid")]
)
def test_an_expired_or_early_certificate_is_refused(made, days, why):
    signer = authority(made.folder, "ca", NOW - timedelta(days=SERVER_DAYS + 1))
    key, certificate = server(made.folder, signer, now=NOW + timedelta(days=days))
    with pytest.raises(ssl.SSLCertVerificationError, match=why):
        shake(key, certificate, signer[1], "localhost")


def test_a_certificate_does_not_outlive_its_authority(made):
    late = NOW + timedelta(days=AUTHORITY_DAYS - 10)
    made.key, made.certificate = server(made.folder, (made.ca_key, made.ca), "fl.example.org", late)
    _, problems = of_server(made, now=NOW + timedelta(days=AUTHORITY_DAYS, seconds=1))
    assert len(problems) == 1 and "expired on" in problems[0]


def test_all_is_well(made):
    last = f"{NOW + timedelta(days=SERVER_DAYS):%Y-%m-%d}"
    assert of_server(made) == ([f"server certificate valid until {last}"], [])
    problems = []
    assert "authority certificate valid until" in check_authority(made.ca, made.ca_key, NOW, problems)[0]
    assert problems == []


def test_the_end_is_told_before_it_comes(made):
    notes, problems = of_server(made, now=NOW + timedelta(days=SERVER_DAYS - 20))
    assert problems == [] and "soon: move server.crt and server.key away" in notes[0]


def test_what_is_wrong_with_a_server_certificate(made, tmp_path):
    _, problems = of_server(made, now=NOW + timedelta(days=SERVER_DAYS + 1))
    assert len(problems) == 1 and "expired on" in problems[0] and "move server.crt and server.key away" in problems[0]
    _, problems = of_server(made, now=NOW - timedelta(days=1))
    assert len(problems) == 1 and "is not valid before" in problems[0] and "clock" in problems[0]
    _, problems = of_server(made, host="fl.example.com")
    assert len(problems) == 1 and "is for fl.example.org, localhost" in problems[0]
    made.ca_key, made.ca = authority(tmp_path / "others")
    _, problems = of_server(made)
    assert len(problems) == 1 and "was signed by another authority" in problems[0]


def test_a_key_of_something_else(made):
    made.key, _ = server(made.folder, (made.ca_key, made.ca), name="other")
    assert "is not the key of" in of_server(made)[1][0]
    problems = []
    check_authority(made.ca, made.key, NOW, problems)
    assert len(problems) == 1 and "is not the key of" in problems[0]
    problems = []
    check_authority(made.certificate, None, NOW, problems)
    assert len(problems) == 1 and "is no authority's certificate" in problems[0]


def test_an_expired_authority(made):
    problems = []
    check_authority(made.ca, None, NOW + timedelta(days=AUTHORITY_DAYS + 1), problems)
    assert len(problems) == 1 and "made anew (`isogram deploy init --force`)" in problems[0]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_keys_that_others_may_read(made, mode):
    made.key.chmod(mode)
    assert of_server(made)[1] == [f"{made.key} can be read by others (mode {mode:o}); chmod 600 {made.key}"]


def test_a_folder_that_others_may_change(made):
    made.folder.chmod(0o770)
    _, problems = of_server(made)
    assert problems == [f"{made.folder} can be changed by others, and server.key lies in it; chmod 700 {made.folder}"]


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_damaged_files(made, content):
    made.key.write_bytes(content)
    made.certificate.write_bytes(content)
    _, problems = of_server(made)
    assert len(problems) == 2 and "is no certificate" in problems[0] and "is no private key" in problems[1]


def test_absent_files(made):
    made.key.unlink()
    made.certificate.unlink()
    _, problems = of_server(made)
    assert [text.partition(";")[0] for text in problems] == [f"no file {made.certificate}", f"no file {made.key}"]


def test_a_node_key_is_of_the_format_that_the_engine_reads(tmp_path):
    private, public = make_node("north/rna@two-hospitals")
    key, other = load_ssh_private_key(private, None), load_ssh_public_key(public)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)
    assert key.public_key() == other
    assert public.startswith(b"ecdsa-sha2-nistp384 ") and public.endswith(b" north/rna@two-hospitals\n")
    assert public_of(private, "north/rna@two-hospitals") == public


def test_the_engine_itself_reads_node_keys(tmp_path):
    """Its node, which takes the private key, and its command that registers the public one."""
    pytest.importorskip("flwr")
    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    private, public = make_node("north")
    arguments = SimpleNamespace(
        auth_supernode_private_key=str(write(tmp_path / "k" / "a.key", private)), auth_supernode_public_key=None
    )
    _, own = _try_setup_client_authentication(arguments)
    kept = try_load_public_key(write(tmp_path / "k" / "a.pub", public))
    assert kept == public_key_to_bytes(own) == registered_form(public)


def test_node_keys_are_checked(tmp_path):
    folder = tmp_path / "k"
    (private, public), (_, strange) = make_node("a"), make_node("b")
    key, pub = write(folder / "rna.key", private), write(folder / "rna.pub", public)
    problems = []
    check_node(key, pub, problems)
    check_node(key, None, problems)
    assert problems == []
    pub.write_bytes(strange)
    check_node(key, pub, problems)
    assert len(problems) == 1 and "is not the public key of" in problems[0]
    problems = []
    pub.write_text("ssh-ed25519 AAAA")
    key.write_bytes(make_authority("x", NOW)[0])  # right curve, other format
    key.chmod(0o644)
    check_node(key, pub, problems)
    assert len(problems) == 3 and "chmod 600" in problems[0]
    assert "is no private key that the engine reads" in problems[1] and "is no public key of a node" in problems[2]
    assert check_public(tmp_path / "none.pub", problems) is None and "no file" in problems[3]
    assert stat.S_IMODE(pub.stat().st_mode) == 0o600
