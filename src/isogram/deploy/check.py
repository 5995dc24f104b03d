"""Whether a server or a site can be started from its folder: keys, certificates, files and paths."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from isogram.deploy.consortium import Consortium, read_consortium
from isogram.deploy.keys import check_authority, check_node, check_public, check_server
from isogram.deploy.layout import SITE, ConsortiumFolder, ServerFolder, kind_of_folder
from isogram.deploy.site import Site, draft_site
from isogram.errors import ConfigError, IsogramError


@dataclass
class Found:
    """What is to be known, and all that is wrong."""

    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Server:
    """What a server starts from. public_keys: name of each node -> its key; nobody else is let in."""

    folder: ServerFolder
    consortium: Consortium
    public_keys: dict[str, Path]


def open_server(path: Path, now: datetime | None = None) -> Server:
    """A server's folder, checked.

    Raises:
        ConfigError: something in it cannot be used: all of it.
    """
    found = Found()
    check_is_server(path)
    server = _server(ServerFolder(path), now or datetime.now(UTC), found)
    if found.problems or server is None:
        raise ConfigError(*found.problems)
    return server


def check_is_server(path: Path) -> None:
    """Whether a server's folder is named, where one is asked for.

    Raises:
        ConfigError: it is another folder, or none.
    """
    what, whole = kind_of_folder(path), ConsortiumFolder(path).server.path
    if not path.is_dir():
        raise ConfigError(f"no folder {path}; name the server's, that `isogram deploy init` made")
    if what not in ("", "a server's folder"):
        raise ConfigError(f"{path} is {what}; name the server's{f', {whole}' if whole.is_dir() else ''}")


def open_site(path: Path, now: datetime | None = None) -> Site:
    """A site's file, with its keys, paths, device and anchor set checked.

    Raises:
        ConfigError: something cannot be used: all of it.
    """
    found = Found()
    site = _site(path, now or datetime.now(UTC), found)
    if found.problems or site is None:
        raise ConfigError(*found.problems)
    return site


def check(path: Path, now: datetime | None = None) -> Found:
    """What is known of a site's file or folder, a server's folder, or a coordinator's whole one.

    Raises:
        ConfigError: it is none of them.
    """
    found, now = Found(), now or datetime.now(UTC)
    whole = ConsortiumFolder(path)
    if path.is_file() or (path / SITE).exists():
        _site(path if path.is_file() else path / SITE, now, found)
    elif whole.server.path.is_dir():
        _whole(whole, now, found)
    elif ServerFolder(path).consortium.exists():
        _server(ServerFolder(path), now, found)
    else:
        raise ConfigError(
            f"{path} is no site.toml, server's folder or consortium's folder; `isogram deploy init` writes them"
        )
    return found


def _server(folder: ServerFolder, now: datetime, found: Found) -> Server | None:
    try:
        consortium = read_consortium(folder.consortium)
    except ConfigError as error:
        found.problems += error.problems
        return None
    keys = {name: folder.public_key(site, modality) for name, (site, modality) in consortium.nodes.items()}
    found.notes += check_authority(folder.authority, None, now, found.problems)
    found.notes += check_server(
        folder.certificate, folder.key, folder.authority, consortium.server.host, now, found.problems
    )
    seen: dict[object, str] = {}
    for name, path in keys.items():
        key = check_public(path, found.problems)
        other = seen.setdefault(key.public_numbers(), name) if key is not None else name
        if other != name:
            found.problems.append(f"{path} is the key of {other}, too; each node needs its own")
    found.notes.append(f"server {consortium.server.address}, nodes {', '.join(keys)}")
    return Server(folder, consortium, keys)


def _site(path: Path, now: datetime, found: Found) -> Site | None:
    try:
        draft = draft_site(path)
    except ConfigError as error:
        found.problems += error.problems
        return None
    site, folder = draft.site, draft.folder
    found.problems += draft.problems
    # Keys and anchors are checked in any case, so that all that is wrong is told at once.
    if site is not None or folder.authority.exists():
        found.notes += check_authority(folder.authority, None, now, found.problems)
    keys = {one.stem for one in folder.path.glob("*.key")}
    for modality in sorted(keys) if site is None else [node.modality for node in site.nodes.values()]:
        check_node(folder.key(modality), None, found.problems)
    if draft.anchors is not None and draft.consortium is not None:
        found.problems += _agreed(draft.anchors, draft.consortium)
    if site is not None:
        found.notes += [f"node {name}: {node.data}" for name, node in site.nodes.items()]
        found.notes += [f"server {site.consortium.server.address}, state in {site.state}"]
    return site


def _agreed(anchors: Path, consortium: Consortium) -> list[str]:
    from isogram.data.anchor_set import hash_anchor_set

    try:
        own = hash_anchor_set(anchors)
    except IsogramError as error:
        return list(error.problems)
    if own != consortium.anchors:
        return [
            f"{anchors} is another anchor set than the consortium's (hash {own[:16]}, agreed "
            f"{consortium.anchors[:16]}); get the coordinator's copy"
        ]
    return []


def _whole(folder: ConsortiumFolder, now: datetime, found: Found) -> None:
    """What a coordinator has: site files there are not filled in yet, so of sites only keys are compared."""
    server = _server(folder.server, now, found)
    if folder.authority_key.exists():
        check_authority(folder.authority, folder.authority_key, now, found.problems)
        found.notes.append(f"{folder.authority_key} is here; keep it offline")
    for name, (site, modality) in server.consortium.nodes.items() if server is not None else ():
        key = folder.site(site).key(modality)
        if key.exists():
            check_node(key, folder.server.public_key(site, modality), found.problems)
            found.notes.append(f"{key} is here; once {name} has it, remove it")
    found.problems[:] = dict.fromkeys(found.problems)
