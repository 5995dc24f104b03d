"""Names that also name folders and hosts, and addresses."""

import ipaddress
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_FILE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")


def host_label(text: str) -> str:
    """The text, if it can name a folder and a host.

    Raises:
        ValueError: it cannot.
    """
    if not _LABEL.fullmatch(text):
        raise ValueError(f"{text!r} is to name folders and hosts: use letters a-z, digits, - inside; at most 63")
    return text


def file_label(text: str) -> str:
    """The text, if it can name a file.

    Raises:
        ValueError: it cannot.
    """
    if not _FILE.fullmatch(text):
        raise ValueError(f"{text!r} is to name a file: use letters a-z, digits, - and _ inside; at most 63")
    return text


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that some file system or reader takes for one: equal but for case or Unicode's way to write."""
    groups = defaultdict(list)
    for name in names:
        groups[unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def parse_address(text: str, *, reached: bool = True) -> tuple[str, int]:
    """Host and port of "host:port"; an IPv6 address stands in brackets.

    reached: it is for others to connect to, so not 0.0.0.0.

    Raises:
        ValueError: it is none, or none that others can connect to.
    """
    remedy = 'write HOST:PORT, such as "fl.example.org:443", "192.0.2.7:443" or "[2001:db8::7]:443"'
    host, colon, port = text.rpartition(":")
    if "://" in text or "/" in text:
        raise ValueError(f"{text!r} is a link, not an address; {remedy}")
    if not colon or not host:
        raise ValueError(f"{text!r} lacks its {'host' if colon else 'port'}; {remedy}")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: the port {port!r} is no number from 1 to 65535; {remedy}")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed or re.fullmatch(r"[0-9.]+", host):
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise ValueError(f"{text!r}: {host} is no IP address; {remedy}") from None
        if bracketed != (address.version == 6):
            raise ValueError(f"{text!r}: brackets are for IPv6 alone; {remedy}")
        if reached and address.is_unspecified:
            raise ValueError(f"{text!r}: nobody can connect to {address}; name the address that the sites reach")
        return str(address), int(port)
    if ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets; {remedy}")
    if len(host) > 253 or not all(_LABEL.fullmatch(part) for part in host.split(".")):
        hint = "write it as its xn-- form" if not host.isascii() else remedy
        raise ValueError(f"{text!r}: {host!r} is no host name; {hint}")
    return host.lower(), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
