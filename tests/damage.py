"""Headers of files as they should not be."""

from hypothesis import strategies as st

WRONG = (None, True, -1, 0.5, "", "x", [], [1], {}, {"x": 1}, [[]], "\u0000")


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
