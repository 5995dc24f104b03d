"""Every message of one secure sum with fixed secrets: `python tests/secagg_vectors.py` writes the file of test vectors.

Four nodes, of which "d" is lost after it has shared, and "c" after it has sent its values.
"""

import hashlib
import json
from pathlib import Path

import torch

from isogram.secure_sum import Collector, Party

PATH = Path(__file__).with_name("secagg_vectors.json")
LABEL = "run vectors, round 2, update"
VALUES = {
    "a": [0, 1, -1, 5, 1 << 40, -(1 << 40)],
    "b": [0, 10, -10, 7, 1 << 40, -(1 << 40)],
    "c": [0, 100, -100, 11, 1 << 40, -(1 << 40)],
    "d": [9, 9, 9, 9, 9, 9],
}


def fixed(name):
    """A source of bytes that anybody can make again: SHA-256 of the name and a counter."""
    count = 0

    def draw(size):
        nonlocal count
        found = b""
        while len(found) < size:
            found += hashlib.sha256(f"{name}/{count}".encode()).digest()
            count += 1
        return found[:size]

    return draw


def make():
    """All that is sent, as hexadecimal digits, and the sum."""
    parties = {name: Party(name, LABEL, fixed(name)) for name in VALUES}
    collector = Collector(LABEL, {name: party.advertise() for name, party in parties.items()}, threshold=3)
    roster = collector.roster
    sent = {name: party.share(roster.keys, roster.threshold) for name, party in parties.items()}
    parcels = collector.route(sent)
    masked = {name: parties[name].masked(torch.tensor(VALUES[name]), parcels[name]) for name in "abc"}
    for name, value in masked.items():
        collector.add(name, value)
    survivors = collector.close()
    revealed = {name: parties[name].unmask(survivors) for name in "abc"}
    return {
        "keys": {name: keys.hex() for name, keys in roster.keys.items()},
        "parcels": {name: {to: parcel.hex() for to, parcel in own.items()} for name, own in sent.items()},
        "masked": {name: value.numpy().tobytes().hex() for name, value in masked.items()},
        "revealed": {name: {of: share.hex() for of, share in own.items()} for name, own in revealed.items()},
        "total": collector.total(revealed).tolist(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make(), indent=1) + "\n", encoding="utf-8")
