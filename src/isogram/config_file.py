"""Settings as a TOML file: read and validated as a whole, written with what each key means."""

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import tomlkit
from pydantic import BaseModel, ValidationError

from isogram.config import FILES, SILOS, Config, SilosConfig, found_from
from isogram.errors import ConfigError
from isogram.goal import GOVERNED
from isogram.privacy import FOLLOWS


def read_config(path: Path | None, settings: Sequence[str] = ()) -> Config:
    """The configuration in a TOML file, or the defaults, with single settings such as "train.rounds=8" on top.

    Relative paths under [files] and [silos], and folders of models that begin with ".", count from the file's own
    folder. The run is named after the file unless it says.

    Raises:
        ConfigError: the file cannot be read, or settings are wrong: every one of them, with its place.
    """
    found: dict[str, Any] = {}
    where = ""
    if path is not None:
        where = f"{path}: "
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"no file {path}; `isogram init {path}` writes one") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
    problems: list[str] = []
    for setting in settings:
        try:
            _set(found, setting)
        except ConfigError as error:
            problems += error.problems
    found["name"] = found.get("name") or _name(path.stem if path is not None else str(found.get("data", Config().data)))
    try:
        config = validated(found)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(*(where + text for text in problems))
    return _rooted(config, path.resolve().parent if path is not None else Path.cwd())


def validated(found: dict[str, Any]) -> Config:
    """The configuration that a table of settings says.

    Raises:
        ConfigError: settings are wrong, or contradict each other: all of them.
    """
    try:
        return Config.model_validate(found)
    except ValidationError as error:
        raise ConfigError(*explain(error), *_contradictions(found, error)) from None


def _contradictions(found: dict[str, Any], error: ValidationError) -> list[str]:
    """What contradicts what among the settings that are right by themselves: validated without the wrong ones."""
    rest = copy.deepcopy(found)
    for problem in error.errors():
        inner: Any = rest
        *groups, last = problem["loc"] or ("",)
        for group in groups:
            inner = inner.get(group) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(last, None)
    if "data" in found and "data" not in rest:
        return []  # most contradictions are with it
    try:
        Config.model_validate(rest)
    except ValidationError as left:
        return [text for text in explain(left) if text not in explain(error)]
    return []


def explain(error: ValidationError, model: type[BaseModel] = Config) -> list[str]:
    """One sentence per wrong setting: its key, what is wrong, and the nearest key where none of that name exists.

    model: what was validated.
    """
    keys = dict(_keys(model))
    out = []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "default_factory_not_called":
            continue  # follows from another problem of the list
        if problem["type"] == "extra_forbidden":
            out.append(f"unknown key {key!r}{_nearest(key, keys)}")
        elif problem["type"] == "missing":
            out.append(f"{key} is missing: {keys.get(_plain(key), '')}")
        elif problem["type"] == "value_error":
            prefix = f"{key}: " if key else ""
            out.append(prefix + problem["msg"].removeprefix("Value error, "))
        else:
            told = _WORDS.get(problem["type"]) or re.sub(r"^(Input|String) should", "should", problem["msg"])
            out.append(f"{key} = {problem['input']!r}: {told}")
    return out


_WORDS = {
    "path_type": "should be a path: text in quotes",
    "int_parsing": "should be a valid integer",
    "float_parsing": "should be a valid number",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "tuple_type": "should be a list, in [ ]",
    "dict_type": "should be a table of keys",
    "mapping_type": "should be a table of keys",
    "model_type": "should be a table of keys",
    "string_pattern_mismatch": "should be text that can be printed, and not empty",
}
"""Kinds of wrong values that pydantic tells of in Python's terms."""


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key that may be set, dotted, with its description; groups themselves too."""
    for name, entry in model.model_fields.items():
        key, kind = prefix + name, entry.annotation
        yield key, entry.description or ""
        kind = next((part for part in get_args(kind) if part is not Ellipsis), kind)  # of a list, what it lists
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{key}.")


def _plain(key: str) -> str:
    return ".".join(part for part in key.split(".") if not part.isdigit())


def _nearest(key: str, keys: Mapping[str, str]) -> str:
    """A hint: the key of a similar name in the same group, else the key of that very name in another one."""
    group, _, last = _plain(key).rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in keys if name.rpartition(".")[0] == group}
    near = get_close_matches(last, beside, n=1)
    if near:
        return f"; did you mean {beside[near[0]]!r}?"
    elsewhere = [name for name in keys if get_close_matches(last, [name.rpartition(".")[2]], n=1, cutoff=0.8)]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}?"
    return f"; there are {', '.join(sorted(beside))}" if beside else ""


def _name(text: str) -> str:
    """A run's name made from a file's: letters, digits, dots and dashes only."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-") or "run"


def _set(found: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"cannot read the setting {setting!r}; write KEY=VALUE, for example train.rounds=8")
    try:
        (value,) = tomllib.loads(f"value = {text}").values()
    except ValueError:
        value = text.strip()  # a bare word: a string, without the quotes that a shell would eat
    *groups, last = key.strip().split(".")
    for group in groups:
        found = found.setdefault(group, {})
        if not isinstance(found, dict):
            raise ConfigError(f"cannot set {key!r}: {group!r} is not a group of settings")
    found[last] = value


def _rooted(config: Config, folder: Path) -> Config:
    nodes = tuple(
        node.model_copy(update={"rows": folder / node.rows, "anchors": folder / node.anchors})
        for node in config.files.nodes
    )
    held_out = {modality: folder / path for modality, path in config.files.held_out.items()}
    files = config.files.model_copy(update={"nodes": nodes, "held_out": held_out})
    silos = _rooted_silos(config.silos, folder)
    paths = {key: found_from(getattr(config.model, key), folder) for key in ("trunk", "start")}
    return config.model_copy(update={"files": files, "silos": silos, "model": config.model.model_copy(update=paths)})


def _rooted_silos(silos: SilosConfig, folder: Path) -> SilosConfig:
    nodes = tuple(node.model_copy(update={"data": folder / node.data.expanduser()}) for node in silos.nodes)
    anchors = None if silos.anchors is None else folder / silos.anchors.expanduser()
    modalities = {
        name: one.model_copy(update={"encoder": found_from(one.encoder, folder)})
        for name, one in silos.modalities.items()
    }
    return silos.model_copy(update={"nodes": nodes, "anchors": anchors, "modalities": modalities})


def to_toml(config: Config) -> str:
    """Every setting of a run, none left to a default: `read_config` gives the same configuration back."""
    unused = {"files", "silos"} - {config.data}
    return tomlkit.dumps(config.model_dump(mode="json", exclude_none=True, exclude=unused))


def commented(config: Config, *, own: str = "") -> str:
    """A configuration file to start from: every key with what it means and its value.

    own: `FILES` or `SILOS`, for data of one's own, with an example of them to fill in.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment("Settings of a run: isogram doctor FILE, then isogram run FILE."))
    document.add(
        tomlkit.comment("Any key may be left out; what stands here is then used. Lines that begin with `# key =`")
    )
    document.add(tomlkit.comment(f"follow from `goal` or `privacy`; the values shown are those of {config.goal}."))
    document.add(tomlkit.nl())
    values = config.model_dump(mode="json") | ({"data": own, "anchors": 0} if own else {})
    usual = Config(goal=config.goal).model_dump(mode="json")
    for key, entry in Config.model_fields.items():
        if key in (FILES, SILOS):
            continue
        if isinstance(entry.annotation, type) and issubclass(entry.annotation, BaseModel):
            document.add(tomlkit.nl())
            document.add(key, _table(entry.annotation, values[key], usual[key], key))
        else:
            _add(document, key, entry.description, values[key])
    examples = {name: _filled(text) if name == own else text for name, text in ((FILES, _FILES), (SILOS, _SILOS))}
    return tomlkit.dumps(document) + "".join(examples.values())


def _filled(example: str) -> str:
    """The example without its introduction and its marks of comments."""
    return "\n" + re.sub(r"^# ?", "", example.partition("#\n")[2], flags=re.MULTILINE)


def _table(model: type[BaseModel], values: Mapping[str, Any], usual: Mapping[str, Any], group: str) -> Any:
    """A group of settings. What another setting decides and is as `usual` is a comment: it is to change with that."""
    table = tomlkit.table()
    table.comment((model.__doc__ or "").split("\n")[0].rstrip("."))
    for key, entry in model.model_fields.items():
        value, dotted = values[key], f"{group}.{key}"
        if isinstance(entry.annotation, type) and issubclass(entry.annotation, BaseModel):
            table.add(tomlkit.nl())
            table.add(key, _table(entry.annotation, value, usual[key], dotted))
        elif dotted in GOVERNED | FOLLOWS and value == usual[key]:
            line = tomlkit.document()
            by = "goal" if dotted in GOVERNED else "privacy"
            _add(line, key, f"by {by}: {entry.description}", value)
            table.add(tomlkit.comment(tomlkit.dumps(line).strip()))
        else:
            _add(table, key, entry.description, value)
    return table


def _add(container: Any, key: str, description: str | None, value: Any) -> None:
    if value is None:
        container.add(tomlkit.comment(f"{key} =".ljust(18) + f" # {description}"))
        return
    item = tomlkit.item(value)
    if description:
        item.comment(description)
        item.trivia.comment_ws = " " * max(1, 20 - len(f"{key} = {item.as_string()}"))
    container.add(key, item)


_FILES = """
# Tables of your own: set data = "files" above and fill this in. Paths are relative to this file.
# A row is a line of a CSV, every column a number, but for `id` and the column of labels. Anchor files need a
# column `id`: the same id is the same public item in every modality. Held-out files too, if they are pairs.
#
# [files]
# labels = "diagnosis"                        # optional: column with a row's class, where a table has it
# classes = ["healthy", "ill"]                # every class that labels may name
# held_out = { rna = "test/rna.csv", meth = "test/meth.csv" }   # optional: rows to evaluate on
#
# [[files.nodes]]
# name = "north-rna"
# modality = "rna"                            # nodes of one modality: same columns, same anchors
# rows = "north/rna.csv"
# anchors = "public/rna.csv"
#
# [[files.nodes]]
# name = "south-meth"
# modality = "meth"
# rows = "south/meth.csv"
# anchors = "public/meth.csv"
"""

_SILOS = """
# Folders and tables of your own, of any modality: set data = "silos" above and fill this in (docs/your-data.md).
#
# [silos]
# anchors = "anchors"                         # folder of an anchor set: anchors.csv and its files
# held_out = 0.2                              # share that is kept to measure on
# measure = "anchors"                         # anchors: are partners found? rows: are classes?
# skip_bad = false                            # leave out items that cannot be read, and count them
# # classes = ["cat", "dog"]                  # every class that labels may name; absent: all that occur
#
# [silos.modalities.photo]                    # a column of the anchor table; absent: the defaults of its kind
# kind = "image"                              # image, audio, text, series, table, sequence
# encoder = "builtin"                         # or lite0, whisper-tiny, minilm (English), hf:ORGANISATION/MODEL
# # rate = 16000                              # audio, series: samples a second
# # columns = ["a", "b"]                      # table, series: columns with numbers
#
# [[silos.nodes]]
# name = "shop"
# modality = "photo"
# data = "photos"                             # folder, CSV, TSV, Parquet, FASTA
# # label = "folder"                          # optional: subfolders are classes
#
# [[silos.nodes]]
# name = "helpdesk"
# modality = "text"                           # its kind, where it has no settings
# data = "tickets.csv"
# column = "text"                             # of paths, text or sequences
# # id = "number"                             # optional: distinct row ids
# # label = "topic"                           # optional: of classes
# # group = "customer"                        # optional: rows that stay together
"""
