"""Bits that tests of the engine share: waiting, a site that answers backwards, a link over a grid."""

import sys
import time

from isogram.engine.link import FlowerLink


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def echo(request):
    return request[::-1]


def over(grid):
    return FlowerLink(grid, lambda: {node.name: node.node_id for node in grid.get_nodes()})


def python(code):
    return [sys.executable, "-c", code]
