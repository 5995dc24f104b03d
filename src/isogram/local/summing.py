"""A node's part in a secure sum that goes on without those that are lost: what it has made and sends to nobody bare."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from isogram.alignment import pack, pair_sums
from isogram.errors import MessageError
from isogram.local.labels import LabelledNode
from isogram.messages import Down, Up
from isogram.secure_sum import Party, fields
from isogram.secure_sum.recovery import PARCEL
from isogram.secure_sum.shamir import SHARE
from isogram.validation import Expected


class SummingNode(LabelledNode):
    """A silo whose numbers go into sums alone; its messages have a row for each party, by name, zeros where none is."""

    summand: Mapping[str, Tensor] | None = None
    """What the next sum is of, by its fields' names: a Gram, or what training made; gone once its masks come off."""

    summing: Party | None = None
    """This node's side of the sum that is going on; like `party` it dies with the process."""

    parties: tuple[str, ...] = ()
    """Names of all nodes in that sum, in order."""

    def keep_gram(self) -> None:
        """Keep this node's part in the consensus for the next sum: fields gram and weight, of `alignment.pair_sums`."""
        total, weight = pair_sums(
            [self.features_gram()], [self.index], self.n_anchors, None if self.quality is None else [self.quality]
        )
        self.summand = {"gram": pack(total), "weight": pack(weight)}

    def send_pair(self, round: int) -> Up:
        """Two public keys for a sum of this round: `secure_sum.recovery`, phase 0."""
        if self.rosters is not None:
            self.rosters.reopen(_values(round), round)
        self.summing, self.parties = Party(self.name, sum_label(self.run, round)), ()
        return self._up("pair", round, pair=_bytes(self.summing.advertise()), masked=True)

    def send_parcels(self, down: Down) -> Up:
        """Shares for the other nodes, sealed: phase 1.

        Raises:
            MessageError: another number of names than of keys, or as `secure_sum.Party.share`.
        """
        assert down.names is not None and down.pairs is not None
        party, names = self._summing(), tuple(json.loads(down.names.numpy().tobytes()))
        if len(names) != len(down.pairs):
            raise MessageError(f"node {self.name!r} was sent keys of {len(down.pairs)} nodes and {len(names)} names")
        keys = {name: pair.numpy().tobytes() for name, pair in zip(names, down.pairs, strict=True)}
        parcels = party.share(keys, down.threshold)
        self.parties = tuple(sorted(names))
        return self._up("parcels", down.round, parcels=rows_of(parcels, self.parties, PARCEL), masked=True)

    def send_summand(self, down: Down) -> Up:
        """The summand behind masks: phase 2.

        Raises:
            MessageError: there is none; rows or scales that are not one for each node or field; the same went into a
                sum over other nodes; or as `secure_sum.pack` and `secure_sum.Party.masked`.
        """
        assert down.parcels is not None and down.present is not None and down.scales is not None
        party, summand = self._summing(), self.summand
        there = self._there(down.present)
        if summand is None or len(down.scales) != len(summand) or len(down.parcels) != len(self.parties):
            raise MessageError(
                f"node {self.name!r} has {len(summand or ())} fields for a sum of {len(self.parties)} nodes, and was "
                f"sent {len(down.scales)} scales and {len(down.parcels)} parcels: begin the sum again"
            )
        scales = dict(zip(sorted(summand), down.scales.tolist(), strict=True))
        found = bytes_of(down.parcels, self.parties)
        if self.rosters is not None:
            self.rosters.check(_values(down.round), there)
        vector = fields.pack(summand, scales, len(self.parties))
        masked = party.masked(vector, {name: found[name] for name in there if name != self.name})
        up = self._up("summand", down.round, summand=masked, masked=True)
        if self.rosters is not None:
            self.rosters.give(_values(down.round), down.round, there)
        return up

    def send_shares(self, down: Down) -> Up:
        """Of each node in the sum the one share that takes its masks off: phase 3.

        Raises:
            MessageError: as `secure_sum.Party.unmask`; or the same was summed over other nodes.
        """
        assert down.present is not None
        there = self._there(down.present)
        shares = self._summing().unmask(there)
        if self.rosters is not None:
            self.rosters.close(_values(down.round), down.round, there)
        self.summand = None
        return self._up("shares", down.round, shares=rows_of(shares, self.parties, SHARE), masked=True)

    def _there(self, present: Tensor) -> list[str]:
        if len(present) != len(self.parties):
            raise MessageError(
                f"node {self.name!r} is in a sum of {len(self.parties)} nodes and was told of {len(present)}: begin "
                "the sum again"
            )
        return [name for name, flag in zip(self.parties, present.tolist(), strict=True) if flag]

    def _summing(self) -> Party:
        if self.summing is None:
            raise MessageError(
                f"node {self.name!r} was started again since it sent its keys for this sum; begin the sum again"
            )
        return self.summing

    def _expected(self, kind: str, round: int, given: Collection[str]) -> Expected:
        expected, sizes = super()._expected(kind, round, given), {}
        if kind in ("parcels", "shares"):
            sizes = {"m": len(self.parties)}
        elif kind == "summand":
            sizes = {"v": sum(value.numel() for value in (self.summand or {}).values())}
        return replace(expected, lengths={**expected.lengths, **sizes})


def _values(round: int) -> str:
    """What `rosters` call a summand."""
    return f"values of round {round}"


def sum_label(run: str, round: int) -> str:
    """What both sides call a sum; keys are new in each, so that two of one round are two all the same."""
    return f"run {run!r}, round {round}"


def names_of(names: Collection[str]) -> Tensor:
    """Names as a message has them."""
    return _bytes(json.dumps(list(names)).encode())


def rows_of(found: Mapping[str, bytes], names: Collection[str], width: int) -> Tensor:
    """[m, width] uint8, a row for each name, zeros where there is nothing."""
    return torch.stack([_bytes(found.get(name, bytes(width))) for name in names])


def bytes_of(rows: Tensor, names: Collection[str]) -> dict[str, bytes]:
    """The same back, zeros too."""
    return {name: row.numpy().tobytes() for name, row in zip(names, rows, strict=True)}


def _bytes(found: bytes) -> Tensor:
    return torch.frombuffer(bytearray(found), dtype=torch.uint8)
