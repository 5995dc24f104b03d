"""Headers of files as they should not be."""

import copy

from hypothesis import strategies as st

WRONG = (None, True, -1, 0.5, "", "x", [], [1], {}, {"x": 1}, [[]], "\u0000")

KINDS = (None, True, -1, 0.5, "x", [1], {"x": 1})
"""One of each type that JSON has."""


def places(header, *before):
    """Every key of a header and every place of its lists, however deep, as the path that leads there."""
    for key in header if isinstance(header, dict) else range(len(header)):
        yield (*before, key)
        if isinstance(header[key], dict | list):
            yield from places(header[key], *before, key)


def with_wrong(header, path, value):
    """The header with something else at a place."""
    found = copy.deepcopy(header)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


def spoil(data, header):
    """Put something else in the place of one entry of a JSON header, however deep, or take it away."""
    while True:
        key = data.draw(st.sampled_from(sorted(header) if isinstance(header, dict) else range(len(header))))
        if isinstance(header[key], dict | list) and header[key] and data.draw(st.booleans()):
            header = header[key]
            continue
        if data.draw(st.integers(0, 3)) == 0:
            del header[key]
        else:
            header[key] = data.draw(st.sampled_from(WRONG))
        return
