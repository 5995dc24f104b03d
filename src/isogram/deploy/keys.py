"""The authority, the server's certificate and the nodes' keys: made, and checked wherever they are read.

Curve P-384 throughout. Nodes prove who they are by signatures of the engine (OpenSSH keys, the server knows the public
half); the server by a certificate (TLS) that the authority signed.
"""

import ipaddress
import os
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, SERVER_DAYS = 3650, 730
SOON = timedelta(days=30)
"""Before its end a certificate is told of."""

LOCAL = ("localhost", "127.0.0.1", "::1")
"""The server's own machine, from where it is controlled and where a proxy reaches it."""

_SKEW = timedelta(hours=1)
"""Clocks of sites may be behind the one that a certificate was made by."""

_PEM, _SSH = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH


def make_authority(name: str, now: datetime) -> tuple[bytes, bytes]:
    """Private key and certificate (PEM) of a new authority, which signs server certificates and nothing else.

    Args:
        name: of the consortium.
        now: with a time zone; the certificate is valid for `AUTHORITY_DAYS` from then.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _subject(name, "isogram authority")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(subject, key.public_key(), now, AUTHORITY_DAYS)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _pem(key), builder.sign(key, hashes.SHA384()).public_bytes(_PEM)


def make_server(authority_key: bytes, authority: bytes, name: str, host: str, now: datetime) -> tuple[bytes, bytes]:
    """Private key and certificate (PEM) of the server: for its host, and for its own machine (`LOCAL`).

    Args:
        authority_key: PEM of the private key.
        authority: PEM of its certificate, which the server's does not outlive.
        name: of the consortium.
        host: DNS name or IP address that sites connect to.
        now: with a time zone; the certificate is valid for `SERVER_DAYS` from then.
    """
    issuer = x509.load_pem_x509_certificate(authority)
    signer = serialization.load_pem_private_key(authority_key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP384R1())
    names = [_general(one) for one in dict.fromkeys((host, *LOCAL))]
    builder = (
        _builder(_subject(name, "isogram server"), key.public_key(), now, SERVER_DAYS, issuer.not_valid_after_utc)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(_elliptic(issuer.public_key())), critical=False
        )
    )
    return _pem(key), builder.sign(signer, hashes.SHA384()).public_bytes(_PEM)


def make_node(comment: str) -> tuple[bytes, bytes]:
    """Private and public key of a node as the engine reads them (OpenSSH); the comment stands in the public one."""
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(_PEM, _SSH, serialization.NoEncryption()), _public(key, comment)


def public_of(private: bytes, comment: str) -> bytes:
    """The public key to a node's private one."""
    key = serialization.load_ssh_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return _public(key, comment)


def registered_form(public: bytes) -> bytes:
    """A node's public key as the engine keeps it: PEM."""
    key = serialization.load_ssh_public_key(public)
    return key.public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def valid_until(certificate: bytes) -> str:
    """The last day (UTC) of a certificate in PEM."""
    return f"{x509.load_pem_x509_certificate(certificate).not_valid_after_utc:%Y-%m-%d}"


def check_authority(certificate: Path, key: Path | None, now: datetime, problems: list[str]) -> list[str]:
    """What is to be known of the authority; what is wrong is added to `problems`.

    Args:
        certificate: PEM.
        key: its private key, None where it is not to be.
        now: with a time zone.
        problems: added to.
    """
    found = _certificate(certificate, problems)
    if found is None:
        return []
    try:
        is_authority = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        problems.append(f"{certificate} is no authority's certificate; put the consortium's {certificate.name} there")
    if key is not None:
        private = _private(key, _load_pem, problems)
        if private is not None and private.public_key() != found.public_key():
            problems.append(f"{key} is not the key of {certificate}; put back the one that was made with it")
    return _validity(certificate, "authority", found, now, problems)


def check_server(
    certificate: Path, key: Path, authority: Path, host: str, now: datetime, problems: list[str]
) -> list[str]:
    """What is to be known of the server's certificate; what is wrong with it or its key is added to `problems`.

    Args:
        certificate: PEM.
        key: PEM of its private key.
        authority: PEM of the certificate of who signed it.
        host: that sites connect to.
        now: with a time zone.
        problems: added to.
    """
    remedy = f"move {certificate.name} and {key.name} away and run `isogram deploy init` again: node keys stay"
    found, private = _certificate(certificate, problems, remedy), _private(key, _load_pem, problems, remedy)
    signer = _certificate(authority, [])  # what is wrong with it is told by check_authority
    if found is None:
        return []
    if private is not None and private.public_key() != found.public_key():
        problems.append(f"{key} is not the key of {certificate}; {remedy}")
    if signer is not None and not _signed(found, signer):
        problems.append(f"{certificate} was signed by another authority than {authority}; {remedy}")
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    if _general(host) not in names:
        held = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
        problems.append(f"{certificate} is for {', '.join(held) or 'no host'}, and server.address has {host}; {remedy}")
    return _validity(certificate, "server", found, now, problems, remedy)


def check_node(key: Path, public: Path | None, problems: list[str]) -> None:
    """What is wrong with a node's keys is added to `problems`; public: None if it is not here to compare."""
    private = _private(key, _load_ssh, problems)
    if public is None:
        return
    other = check_public(public, problems)
    if private is not None and other is not None and private.public_key() != other:
        problems.append(f"{public} is not the public key of {key}; remove both and run `isogram deploy init` again")


def check_public(path: Path, problems: list[str]) -> ec.EllipticCurvePublicKey | None:
    """A node's public key; None if what is wrong with it was added to `problems`."""
    data = _bytes(path, problems)
    if data is None:
        return None
    try:
        return _elliptic(serialization.load_ssh_public_key(data))
    except (ValueError, UnsupportedAlgorithm):
        problems.append(f"{path} is no public key of a node (OpenSSH, curve P-384); {_PUT_BACK}")
        return None


def _subject(name: str, what: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, what)]
    )


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int, end: datetime | None = None
) -> x509.CertificateBuilder:
    until = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(until if end is None else min(until, end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _public(key: ec.EllipticCurvePrivateKey, comment: str) -> bytes:
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(encoding, form) + f" {comment}\n".encode()


def _elliptic(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not on an elliptic curve")
    return key


def _signed(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


_PUT_BACK = "put the one back that `isogram deploy init` wrote"


def _bytes(path: Path, problems: list[str], remedy: str = _PUT_BACK) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        problems.append(f"no file {path}; {remedy}")
    except OSError as error:
        problems.append(f"cannot read {path}: {error.strerror}; run as its owner")
    return None


def _certificate(path: Path, problems: list[str], remedy: str = _PUT_BACK) -> x509.Certificate | None:
    data = _bytes(path, problems, remedy)
    if data is None:
        return None
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        problems.append(f"{path} is no certificate (PEM), or is damaged; {remedy}")
        return None


def _load_pem(data: bytes) -> object:
    return serialization.load_pem_private_key(data, None)


def _load_ssh(data: bytes) -> object:
    return serialization.load_ssh_private_key(data, None)


def _private(
    path: Path, load: Callable[[bytes], object], problems: list[str], remedy: str = _PUT_BACK
) -> ec.EllipticCurvePrivateKey | None:
    """A private key that only its owner can read, in a folder that only its owner can change."""
    data = _bytes(path, problems, remedy)
    if data is None:
        return None
    if os.name == "posix":
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            problems.append(f"{path} can be read by others (mode {mode:o}); chmod 600 {path}")
        folder = path.absolute().parent
        if stat.S_IMODE(folder.stat().st_mode) & 0o022:
            problems.append(f"{folder} can be changed by others, and {path.name} lies in it; chmod 700 {folder}")
    try:
        key = load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        problems.append(f"{path} is no private key that the engine reads, or is damaged; {remedy}")
        return None
    return key


def _validity(
    path: Path, what: str, found: x509.Certificate, now: datetime, problems: list[str], remedy: str = ""
) -> list[str]:
    first, last = found.not_valid_before_utc, found.not_valid_after_utc
    if now < first:
        problems.append(f"{path} is not valid before {first:%Y-%m-%d %H:%M} UTC; is this machine's clock right?")
    elif now > last:
        remedy = remedy or "all certificates have to be made anew (`isogram deploy init --force`) and handed out again"
        problems.append(f"{path} expired on {last:%Y-%m-%d}; {remedy}")
    soon = f", soon: {remedy}" if remedy and now <= last < now + SOON else ""
    return [f"{what} certificate valid until {last:%Y-%m-%d}{soon}"]
