"""The one file of a site's operator: where the data lie on this machine, and where the node may write."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from isogram.config import Config, SiloNode
from isogram.config.settings import Settings
from isogram.deploy.consortium import Consortium, placed, read_consortium, read_toml
from isogram.deploy.layout import CONSORTIUM, STATE, SiteFolder
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


def read_site(path: Path) -> Site:
    """A site's file, and the consortium's beside its keys.

    Raises:
        ConfigError: a file cannot be read, something in it is wrong, does not fit the consortium, or a path is not
            there or may not be read or written: all of it, with its place.
    """
    found = read_toml(path)
    problems = _named(found)
    site = None
    try:
        site = SiteFile.model_validate(found)
    except ValidationError as error:
        problems += placed(error, SiteFile, found, "nodes")
    if problems or site is None:
        raise ConfigError(*(f"{path}: {text}" for text in problems))
    folder = path.resolve().parent
    home = SiteFolder(_at(folder, site.keys))
    try:
        consortium = read_consortium(home.consortium)
    except ConfigError as error:
        remedy = [] if home.consortium.exists() else [f"{path}: keys names the folder of {CONSORTIUM}; correct it"]
        raise ConfigError(*error.problems, *remedy) from None
    nodes = [node.model_copy(update={"data": _at(folder, node.data)}) for node in site.nodes]
    anchors, state = _at(folder, site.anchors), _at(folder, site.state)
    problems = _foreign(site, consortium)
    for node in nodes:
        problems += _readable(node.data, f"data of {node.modality}")
        if state == node.data or node.data in state.parents:
            problems.append(f"state {state} lies in the data of {node.modality}; name a folder outside")
    problems += _readable(anchors, "anchors", "anchors.csv")
    problems += _writable(state)
    if problems:
        raise ConfigError(*(f"{path}: {text}" for text in problems))
    own = {place: name for name, place in consortium.nodes.items()}
    named = {own[site.name, node.modality]: node for node in nodes}
    return Site(path, site.name, consortium, home, anchors, state, site.device, site.threads, named)


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


def _foreign(site: SiteFile, consortium: Consortium) -> list[str]:
    try:
        wanted = consortium.site(site.name).modality
    except ConfigError as error:
        return [f"name: {text}" for text in error.problems]
    held = [node.modality for node in site.nodes]
    problems = [f"[[nodes]]: modality {one!r} stands twice; keep one" for one in {m for m in held if held.count(m) > 1}]
    for one in dict.fromkeys(held):
        if one not in wanted:
            agreed = ", ".join(map(repr, wanted))
            problems.append(f"[[nodes]]: modality {one!r} is not this site's in the consortium ({agreed}); correct it")
    missing = [one for one in wanted if one not in held]
    problems += [f"[[nodes]]: none has modality {one!r}, which the consortium expects; add it" for one in missing]
    return problems


def _at(folder: Path, path: Path) -> Path:
    return (folder / path.expanduser()).resolve()


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
