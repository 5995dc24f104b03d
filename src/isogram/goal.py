"""What rounds train for, and the settings that follow from it where none are given. Figures: docs/adapters.md."""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any, Literal

from pydantic import BaseModel

Goal = Literal["pairs", "classes"]

DEFAULTS: dict[Goal, dict[str, dict[str, Any]]] = {
    "pairs": {},
    "classes": {
        "align": {"decorrelate": False, "propagate": False},
        "train": {
            "rounds": 8,
            "steps": 16,
            "batch": 16,
            "lr": 3e-3,
            "weights": {"task": 1.0, "cka": 0.1, "frame": 0.1, "teacher": 0.0},
        },
        "average": {"across": "attention", "head": "laplace", "head_within": True},
    },
}
"""Goal -> group -> settings in the place of the defaults, which are those of "pairs"."""


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting in nested groups: its dotted key, its value."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


GOVERNED = frozenset(key for groups in DEFAULTS.values() for key, _ in leaves(groups))
"""Every setting that a goal decides, dotted."""


def governed(config: BaseModel) -> dict[str, Any]:
    """Of a configuration, all that a goal decides, by dotted key."""
    return {key: reduce(getattr, key.split("."), config) for key in sorted(GOVERNED)}


def goal_of(data: object) -> Goal:
    """The goal of a built-in data set: classes where every modality labels rows of all of them."""
    return "classes" if data == "digits-sites" else "pairs"


def with_defaults(given: Mapping[str, Any], goal: Goal) -> dict[str, Any]:
    """Groups of settings as they are given, completed by what the goal has in the place of defaults."""
    return completed(given, DEFAULTS[goal])


def completed(given: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Groups of settings as they are given, and of `groups` what they do not say."""
    found = dict(given)
    for group, settings in groups.items():
        found[group] = _completed(found.get(group, {}), settings)
    return found


def _completed(given: Any, settings: Mapping[str, Any]) -> Any:
    """`given`, a group as a mapping or as a model, and of `settings` what it does not say."""
    if isinstance(given, BaseModel):
        given = {key: getattr(given, key) for key in given.model_fields_set}
    if not isinstance(given, Mapping):
        return given  # wrong, and told by whoever validates it
    inner = {
        key: _completed(given[key], value)
        for key, value in settings.items()
        if isinstance(value, Mapping) and key in given
    }
    return {**settings, **given, **inner}
