"""The one file that a coordinator writes: who takes part, where the server is, what is agreed, how it is run."""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from isogram.config import SILOS, Config, ModalityConfig, SiloNode, is_folder
from isogram.config.settings import Settings
from isogram.config_file import explain, validated
from isogram.deploy.layout import CONSORTIUM, kind_of_folder
from isogram.deploy.names import alike, file_label, host_label, is_loopback, parse_address
from isogram.errors import ConfigError

_HOUR = 3600.0


def _some(found: Any) -> Any:
    """By hand: a length that pydantic checks does not count wrong entries, and would be told of beside them."""
    if found in ([], {}):
        raise ValueError("is empty; name at least one")
    return found


class SiteEntry(Settings):
    """One organisation that takes part."""

    name: str = Field(description="of the site; names its folder")
    modality: tuple[str, ...] = Field(description="what it holds: one name, or a list of them")
    contact: str = Field("", description="who to ask; every site sees it")

    @field_validator("modality", mode="before")
    @classmethod
    def _listed(cls, found: Any) -> Any:
        return (found,) if isinstance(found, str) else _some(found)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        return host_label(name)


class ServerEntry(Settings):
    """Where the server is."""

    address: str = Field(description="HOST:PORT that the sites connect to")
    listen: str = Field(
        "127.0.0.1:9092", description="HOST:PORT of the engine behind the proxy, on the server's own machine"
    )

    @field_validator("address")
    @classmethod
    def _an_address(cls, address: str) -> str:
        parse_address(address)
        return address

    @field_validator("listen")
    @classmethod
    def _not_open(cls, listen: str) -> str:
        if not is_loopback(parse_address(listen, reached=False)[0]):
            raise ValueError(
                f"{listen!r} is open to others, and the engine's control asks nobody for a password; listen on "
                "127.0.0.1 and let a proxy pass /v1/fleet/ on (docs/deploy.md)"
            )
        return listen

    @property
    def host(self) -> str:
        """The host of `address`: what the server's certificate is for."""
        return parse_address(self.address)[0]


class Waits(Settings):
    """Bounds on waiting, in seconds."""

    join: float = Field(600.0, ge=1, le=24 * _HOUR, description="for min_nodes to be online before a run begins")
    answer: float = Field(_HOUR, ge=1, le=168 * _HOUR, description="for nodes to answer one request")


class Consortium(Settings):
    """What all parties agree on. `run` has a node for each site and modality; where its data lie, only the site says.

    min_nodes, min_per_modality: a run does not begin, and a round does not count, with fewer.
    """

    name: str = Field(description="of the consortium")
    anchors: str = Field(description="what `isogram anchors hash FOLDER` prints")
    min_nodes: int = Field(2, ge=2, description="fewer nodes are no federation")
    min_per_modality: int = Field(1, ge=0, description="nodes of each modality that have to be there")
    server: ServerEntry
    waits: Waits = Waits()
    modalities: Mapping[str, ModalityConfig] = Field(description="modality = how its items are read")
    sites: tuple[SiteEntry, ...] = Field(description="[[sites]]: one per organisation")
    run: Config = Field(default_factory=Config, description="settings of a run, as `isogram init` writes them")

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        return host_label(name)

    @field_validator("anchors")
    @classmethod
    def _a_hash(cls, anchors: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", anchors):
            raise ValueError(
                f"{anchors!r} is no hash of an anchor set; write what `isogram anchors hash FOLDER` prints"
            )
        return anchors

    @field_validator("modalities", "sites", mode="before")
    @classmethod
    def _not_empty(cls, found: Any) -> Any:
        return _some(found)

    @field_validator("modalities")
    @classmethod
    def _name_files(cls, modalities: Mapping[str, ModalityConfig]) -> Mapping[str, ModalityConfig]:
        for name, one in modalities.items():
            file_label(name)
            if is_folder(one.encoder):
                raise ValueError(
                    f"{name}.encoder = {one.encoder!r} is a folder of one machine; name a model of the hub, which each "
                    "site keeps in its own cache"
                )
        return modalities

    @property
    def nodes(self) -> dict[str, tuple[str, str]]:
        """Name of each node -> its site and modality: the only source of what a node is trusted to be."""
        from isogram.data.silos.sites import node_names

        return {name: (node.name, node.modality) for name, node in node_names(self.run.silos.nodes).items()}

    def site(self, name: str) -> SiteEntry:
        """The site of this name.

        Raises:
            ConfigError: there is none.
        """
        names = [site.name for site in self.sites]
        if name not in names:
            near = get_close_matches(name, names, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"the consortium {self.name} has no site {name!r}; {meant}")
        return self.sites[names.index(name)]


def read_consortium(path: Path) -> Consortium:
    """The consortium in a file.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong: all of it, with its place.
    """
    if path.is_dir():
        beside = f"; name {path / CONSORTIUM}" if (path / CONSORTIUM).exists() else ""
        raise ConfigError(f"{path} is {kind_of_folder(path) or 'a folder'}, not a consortium's file{beside}")
    found = read_toml(path)
    if "nodes" in found and "sites" not in found:
        raise ConfigError(f"{path} is a site's file; name the consortium's, {CONSORTIUM}")
    return parse_consortium(found, path)


def read_toml(path: Path) -> dict[str, Any]:
    """A file's tables.

    Raises:
        ConfigError: it is absent, cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no file {path}; correct its path (docs/deploy.md has an example to start from)") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; get permission, or name another file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8 ({error.reason}); save it as such") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}; correct that line") from None


def parse_consortium(found: dict[str, Any], path: Path) -> Consortium:
    """The consortium that a file's tables say.

    Raises:
        ConfigError: something is wrong: all of it, with its place.
    """
    rest = {key: value for key, value in found.items() if key != "run"}
    problems = _disagreements(rest)
    consortium = None
    try:
        consortium = Consortium.model_validate(rest)
    except ValidationError as error:
        problems = [*placed(error, Consortium, rest, "sites"), *problems]
    run, of_run = _run(found.get("run", {}), rest)
    problems += of_run
    if problems or consortium is None or run is None:
        raise ConfigError(*(f"{path}: {text}" for text in problems))
    return consortium.model_copy(update={"run": run})


def placed(error: ValidationError, model: type[BaseModel], found: Mapping[str, Any], group: str) -> list[str]:
    """One sentence per wrong key; one in an entry of [[group]] says which entry by number and name."""
    entries = found.get(group)

    def at(text: str) -> str:
        number = re.search(rf"\b{group}\.(\d+)", text)
        if number is None:
            return text
        entry = entries[int(number[1])] if isinstance(entries, list) else None
        name = entry.get("name", entry.get("modality")) if isinstance(entry, dict) else None
        called = f" ({name!r})" if isinstance(name, str) else ""
        return f"[[{group}]] {int(number[1]) + 1}{called}: " + text.replace(number[0], group)

    return [at(text) for text in explain(error, model)]


def _entries(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Name and modalities of each site, as far as they can be made out."""
    sites = found.get("sites")
    out = []
    for site in sites if isinstance(sites, list) else ():
        if isinstance(site, dict) and isinstance(site.get("name"), str):
            held = site.get("modality")
            held = [held] if isinstance(held, str) else held if isinstance(held, list) else []
            out.append((site["name"], [name for name in held if isinstance(name, str)]))
    return out


def _disagreements(found: Mapping[str, Any]) -> list[str]:
    """What is wrong between entries that may be right by themselves."""
    problems, sites = [], _entries(found)
    for group in alike(name for name, _ in sites):
        how = " in case or in Unicode's way to write alone" if len(set(group)) > 1 else " in nothing"
        problems.append(f"[[sites]]: {' and '.join(map(repr, group))} differ{how}; give each a name of its own")
    declared = found.get("modalities")
    known = list(declared) if isinstance(declared, dict) else []
    for group in alike(known):
        problems.append(f"modalities {' and '.join(map(repr, group))} differ in case alone; rename one")
    meant: set[str] = set()
    for name, held in sites:
        twice = [modality for modality, times in Counter(held).items() if times > 1]
        problems += [f"site {name!r}: modality {modality!r} stands twice; keep one" for modality in twice]
        for modality in dict.fromkeys(held):
            if modality not in known:
                near = get_close_matches(modality, known, n=1)
                meant |= set(near)
                remedy = f"did you mean {near[0]!r}?" if near else f"add [modalities.{modality}], or correct it"
                problems.append(f"site {name!r}: unknown modality {modality!r}; {remedy}")
    counts = Counter(modality for _, held in sites for modality in held)
    for modality in known:
        if sites and not counts[modality] and modality not in meant:
            problems.append(f"modalities.{modality}: no site holds it; leave it out, or add the site")
    problems += _kinds(declared if isinstance(declared, dict) else {})
    least, each = found.get("min_nodes", 2), found.get("min_per_modality", 1)
    if isinstance(least, int) and sites and least > counts.total():
        problems.append(f"min_nodes = {least}, and the sites have {counts.total()} nodes (one a modality); lower it")
    few = [modality for modality in known if counts[modality]]
    if isinstance(each, int) and (few := [modality for modality in few if counts[modality] < each]):
        problems.append(f"min_per_modality = {each}, and fewer sites hold {', '.join(map(repr, few))}; lower it")
    return problems


def _kinds(modalities: Mapping[str, Any]) -> list[str]:
    """What a run would refuse; nothing is loaded."""
    from isogram.data.modalities.encoders import check_encoder

    problems = []
    for name, entry in modalities.items():
        kind, encoder = (entry.get("kind", ""), entry.get("encoder", "builtin")) if isinstance(entry, dict) else (0, 0)
        if isinstance(kind, str) and isinstance(encoder, str):
            # A folder of one machine is told of as such.
            encoder = "builtin" if is_folder(encoder) else encoder
            try:
                check_encoder(ModalityConfig(kind=kind or name, encoder=encoder))
            except ConfigError as error:
                problems += [f"modalities.{name}: {text}" for text in error.problems]
    return problems


_ELSEWHERE = {
    "name": "it is the consortium's",
    "data": 'it is always "silos"',
    "files": "each site says where its data lie in its own site.toml",
    "output": "runs go to the server's own folder",
    "threads": "each site says it in its own site.toml",
    "train.device": "each site says it in its own site.toml",
    "silos.nodes": "they follow from [[sites]]",
    "silos.anchors": "each site says where its copy lies in its own site.toml",
    "silos.modalities": "write them as [modalities.NAME] of the consortium",
}


def _run(found: Any, rest: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    """The configuration of a run, with a node for each site and modality; and what is wrong with it."""
    if not isinstance(found, dict):
        return None, ["[run] is to be a table of settings, as `isogram init` writes them"]
    silos = found.get("silos", {})
    if not isinstance(silos, dict):
        return None, ["[run.silos] is to be a table of settings"]
    groups = {"silos": silos, "train": found.get("train")}
    flat = {*found, *(f"{group}.{key}" for group, of in groups.items() if isinstance(of, dict) for key in of)}
    problems = [f"[run] {key}: {why}; leave it out here" for key, why in _ELSEWHERE.items() if key in flat]
    silos = {key: value for key, value in silos.items() if f"silos.{key}" not in _ELSEWHERE}
    model = found.get("model")
    for key in ("trunk", "start"):
        value = model.get(key) if isinstance(model, dict) else None
        if isinstance(value, str) and is_folder(value):
            problems.append(f"[run] model.{key} = {value!r} is a folder of one machine; name a model of the hub")
    nodes = [
        SiloNode.model_construct(name=name, modality=modality, data=Path("elsewhere"))
        for name, held in _entries(rest)
        for modality in dict.fromkeys(held)
    ]
    settings = {key: value for key, value in found.items() if key not in _ELSEWHERE}
    name = rest.get("name")
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9-]+", name):
        settings["name"] = name
    # Something stands in for nodes that are wrong, and are told of by themselves.
    wanted = [node.model_dump() for node in nodes] or [{"name": "x", "modality": "x", "data": "x"}]
    settings |= {"data": SILOS, "silos": {**silos, "anchors": "elsewhere", "nodes": wanted}}
    try:
        config = validated(settings)
    except ConfigError as error:
        return None, problems + [f"[run] {text}" for text in error.problems if "silos.nodes." not in text]
    try:
        modalities = {name: ModalityConfig.model_validate(one) for name, one in rest.get("modalities", {}).items()}
    except (ValidationError, AttributeError):
        modalities = {}  # told of by themselves
    return config.model_copy(update={"silos": config.silos.model_copy(update={"modalities": modalities})}), problems
