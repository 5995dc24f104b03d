"""An authority, a server's certificate and nodes' keys for one machine, as `isogram deploy init` makes them."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from isogram.engine.commands import Certificates


def certificates(folder: Path) -> Certificates:
    authority, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("test authority", "localhost")]
    now = datetime.now(UTC)
    signed = []
    for subject, public, extensions in (
        (names[0], authority.public_key(), [x509.BasicConstraints(ca=True, path_length=0)]),
        (
            names[1],
            key.public_key(),
            [
                x509.BasicConstraints(ca=False, path_length=None),
                x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            ],
        ),
    ):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(names[0])
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        signed.append(builder.sign(authority, hashes.SHA384()))
    paths = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    paths.authority.write_bytes(signed[0].public_bytes(Encoding.PEM))
    paths.certificate.write_bytes(signed[1].public_bytes(Encoding.PEM))
    paths.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Private and public key."""
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / name, folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return private, public
