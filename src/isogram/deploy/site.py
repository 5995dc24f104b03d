"""The one file of a site's operator: where the data lie on this machine, and where the node may write."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from isogram.config import Config, SiloNode
from isogram.config.settings import Settings
from isogram.deploy.consortium import Consortium, placed, read_consortium, read_toml
from isogram.deploy.layout import CONSORTIUM, SITE, STATE, SiteFolder, kind_of_folder
from isogram.errors import ConfigError


class SiteFile(Settings):
    """What the operator writes. Paths count from the file's own folder."""

    name: str = Field(description="of the site, as in the consortium's file")
    anchors: Path = Field(description="this site's copy of the anchor set: a folder with anchors.csv")
    state: Path = Field(Path(STATE), description="the only folder that the node writes to; private")
    keys: Path = Field(Path(), description="folder with this site's keys, ca.crt and consortium.toml")
    device: str = Field("cpu", description="where the node trains: cpu, cuda")
    threads: int = Field(1, ge=1, description="of the CPU; the same number gives the same bits")
    nodes: tuple[SiloNode, ...] = Field(description="[[nodes]]: one for each modality of this site")


@dataclass(frozen=True)
class Site:
    """A site's file with the consortium that it belongs to.

    nodes: name of each node, as the server calls it -> its data; paths are absolute.
    """

    path: Path
    name: str
    consortium: Consortium
    folder: SiteFolder
    anchors: Path
    state: Path
    device: str
    threads: int
    nodes: dict[str, SiloNode]

    @property
    def config(self) -> Config:
        """The run's settings with this site's own nodes and modalities, and this machine's device and threads."""
        run = self.consortium.run
        nodes = tuple(self.nodes.values())
        held = {node.modality: run.silos.modality(node.modality) for node in nodes}
        silos = run.silos.model_copy(update={"nodes": nodes, "anchors": self.anchors, "modalities": held})
        train = run.train.model_copy(update={"device": self.device})
        return run.model_copy(update={"silos": silos, "train": train, "threads": self.threads})

    def key(self, node: str) -> Path:
        """Private key of one of `nodes`."""
        return self.folder.key(self.nodes[node].modality)


@dataclass
class Draft:
    """What a site's file says, right or wrong.

    site: None if anything is wrong, and then `problems` has all of it. anchors: where the anchor set lies, if it can be
    looked at.
    """

    problems: list[str]
    folder: SiteFolder
    site: Site | None = None
    consortium: Consortium | None = None
    anchors: Path | None = None


def read_site(path: Path) -> Site:
    """A site's file, and the consortium's beside its keys.

    Raises:
        ConfigError: a file cannot be read, something in it is wrong, does not fit the consortium, or a path is not
            there or may not be read or written: all of it, with its place.
    """
    draft = draft_site(path)
    if draft.site is None:
        raise ConfigError(*draft.problems)
    return draft.site


def draft_site(path: Path) -> Draft:
    """The same with all that is wrong, whatever else is.

    Raises:
        ConfigError: the file cannot be read.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is {kind_of_folder(path) or 'a folder'}; name a site's own file, {SITE} in it")
    found = read_toml(path)
    if "sites" in found and "nodes" not in found:
        raise ConfigError(f"{path} is a consortium's file; name a site's own, {SITE}")
    problems, file = _named(found), None
    try:
        file = SiteFile.model_validate(found)
    except ValidationError as error:
        problems += placed(error, SiteFile, found, "nodes")
    folder = path.resolve().parent
    home = SiteFolder(_at(folder, found.get("keys")) or folder)
    draft = Draft([], home)
    try:
        draft.consortium = read_consortium(home.consortium)
    except ConfigError as error:
        draft.problems += error.problems
        if not home.consortium.exists():
            problems.append(f"keys names the folder of {CONSORTIUM}; correct it")
    if draft.consortium is not None and file is not None:
        problems += _foreign(file, draft.consortium, home)
    anchors, state = _at(folder, found.get("anchors")), _at(folder, found.get("state", STATE))
    wrong = _readable(anchors, "anchors", "anchors.csv") if anchors is not None else []
    draft.anchors = None if wrong else anchors
    problems += _data(found, folder, state) + wrong
    problems += _writable(state) if state is not None else []
    problems += _device(found.get("device"))
    draft.problems += [f"{path}: {text}" for text in problems]
    if file is not None and draft.consortium is not None and not draft.problems:
        assert anchors is not None and state is not None
        own = {place: name for name, place in draft.consortium.nodes.items()}
        nodes = {own[file.name, node.modality]: node for node in file.nodes}
        named = {
            name: node.model_copy(update={"data": (folder / node.data.expanduser()).resolve()})
            for name, node in nodes.items()
        }
        draft.site = Site(path, file.name, draft.consortium, home, anchors, state, file.device, file.threads, named)
    return draft


def _named(found: dict[str, Any]) -> list[str]:
    """Gives every entry of [[nodes]] the site's name, which it is to leave out."""
    problems, nodes = [], found.get("nodes")
    for number, node in enumerate(nodes if isinstance(nodes, list) else (), 1):
        if isinstance(node, dict):
            if "name" in node:
                problems.append(f"[[nodes]] {number}: name = {node['name']!r} is the site's own; leave it out")
            # A wrong name is told of once, at the site.
            node["name"] = found["name"] if isinstance(found.get("name"), str) and found["name"] else "site"
    return problems


def _foreign(site: SiteFile, consortium: Consortium, home: SiteFolder) -> list[str]:
    try:
        wanted = consortium.site(site.name).modality
    except ConfigError as error:
        return [f"name: {text}" for text in error.problems]
    held = [node.modality for node in site.nodes]
    keys = {key.stem for key in home.path.glob("*.key")}
    owners = [one.name for one in consortium.sites if set(one.modality) == keys]
    if owners and not keys & set(wanted):
        there = " and ".join(f"{key}.key" for key in sorted(keys))
        return [
            f"name = {site.name!r}, and this is the folder of {' or '.join(map(repr, owners))}: {there} is in it; "
            "correct the name"
        ]
    problems = [f"[[nodes]]: modality {one!r} stands twice; keep one" for one in {m for m in held if held.count(m) > 1}]
    for one in dict.fromkeys(held):
        if one not in wanted:
            agreed = ", ".join(map(repr, wanted))
            problems.append(f"[[nodes]]: modality {one!r} is not this site's in the consortium ({agreed}); correct it")
    missing = [one for one in wanted if one not in held]
    problems += [f"[[nodes]]: none has modality {one!r}, which the consortium expects; add it" for one in missing]
    return problems


def _at(folder: Path, path: Any) -> Path | None:
    """Where a path of the file leads; None for what is none, which is told of by itself."""
    return (folder / Path(path).expanduser()).resolve() if isinstance(path, str) else None


def _data(found: dict[str, Any], folder: Path, state: Path | None) -> list[str]:
    problems, nodes = [], found.get("nodes")
    for node in nodes if isinstance(nodes, list) else ():
        data = _at(folder, node.get("data")) if isinstance(node, dict) else None
        if data is not None:
            problems += _readable(data, f"data of {node.get('modality')}")
            if state is not None and (state == data or data in state.parents):
                problems.append(f"state {state} lies in the data of {node.get('modality')}; name a folder outside")
    return problems


def _device(name: Any) -> list[str]:
    from isogram.run import check_device

    try:
        if isinstance(name, str):
            check_device(name, "device")
    except ConfigError as error:
        return list(error.problems)
    return []


def _readable(path: Path, what: str, inside: str = "") -> list[str]:
    """What is wrong with a folder or file to be read; inside: a file that the folder is to hold."""
    if not path.exists():
        parent = next(one for one in path.parents if one.exists())
        return [f"{what}: no file or folder {path} (there is {parent}); correct the path"]
    if inside and not path.is_dir():
        return [f"{what}: {path} is no folder; name the one that holds {inside}"]
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return [f"{what}: {path} may not be read by {_user()}; give that user permission"]
    return _readable(path / inside, what) if inside else []


def _writable(state: Path) -> list[str]:
    there = state if state.exists() else next(one for one in state.parents if one.exists())
    if not there.is_dir():
        return [f"state: {there} is a file; name a folder"]
    if not os.access(there, os.W_OK | os.X_OK):
        return [f"state: {there} may not be written by {_user()}; give that user permission, or name another folder"]
    return []


def _user() -> str:
    return f"user {os.getuid()}" if os.name == "posix" else "this user"
