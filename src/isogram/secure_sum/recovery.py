"""A sum that goes on without nodes that are lost: the double masks of Bonawitz et al. 2017, section 4, figure 2.

"Practical Secure Aggregation for Privacy-Preserving Machine Learning", for a server that follows the protocol but looks
at all it gets ("honest but curious"), alone or with up to threshold - 1 of the nodes. In four phases:

0. Each party advertises two public keys, one for channels and one for masks.
1. It splits the secret of its masks, and the seed of a mask of its own, into Shamir shares, one for each party, sealed
   so that only that party can open it; the server routes them.
2. It sends its values under its own mask and one mask for each other party whose shares have come.
3. It is told whose values have come, and reveals of each party one share: of the own mask's seed if its values have
   come, of the masks' secret if not. Never both, for both would bare the values: a second, other list is refused.

The server then takes off the own masks of those who sent values, and the masks that those lost between phases 1 and 2
had with them. What is left is the exact sum over all whose values have come in phase 2, and nothing else. A server that
lies, about keys or about who is lost, is not defended against: signed keys and a round of consistency checks would be
needed (ibid., section 6.2). A party costs as many streams of the vector's length as there are parties.
"""

import secrets
from collections.abc import Callable, Collection, Mapping

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from torch import Tensor, int64

from isogram.errors import MessageError
from isogram.secure_sum import fields, shamir
from isogram.secure_sum.masks import KEY, Roster, add_mask, default_threshold

PARCEL = 2 * shamir.SHARE + 16
"""Bytes of two shares, sealed."""

_CANNOT_OPEN = "cannot open the shares that node {!r} sent it"


class SpoiltError(MessageError):
    """Shares that are none, or not those of this sum; `node`: who sent them."""

    def __init__(self, node: str, line: str) -> None:
        super().__init__(line)
        self.node = node


def blamed(line: str, names: Collection[str]) -> str | None:
    """Of nodes with these names, the one whose parcel a node could not open, by what that node said of it."""
    return next((name for name in names if _CANNOT_OPEN.format(name) in line), None)


class Party:
    """One node's side of one sum; its phases, each done once, in order. It lives and dies with its secrets.

    Args:
        name: of the node.
        label: of `Roster`.
        draw: random bytes, so many; the operating system's if not given, and nothing else but in tests.
    """

    def __init__(self, name: str, label: str, draw: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self.name, self._label, self._draw = name, label, draw
        self._channel = X25519PrivateKey.from_private_bytes(draw(KEY))
        self._mask = X25519PrivateKey.from_private_bytes(draw(KEY))
        self._seed = draw(KEY)
        self._roster: Roster | None = None
        self._own_shares = b""
        self._shares: dict[str, bytes] = {}
        self._survivors: set[str] | None = None

    def advertise(self) -> bytes:
        """Phase 0: two public keys, `KEYS` bytes."""
        return self._channel.public_key().public_bytes_raw() + self._mask.public_key().public_bytes_raw()

    def share(self, keys: Mapping[str, bytes], threshold: int) -> dict[str, bytes]:
        """Phase 1: for each other party this one's two shares, sealed, `PARCEL` bytes.

        Args:
            keys: of all parties what they advertised, this one's among them.
            threshold: of `Roster`.

        Raises:
            MessageError: as `Roster`; or this party's own keys are not among them; or it has shared before.
        """
        if self._roster is not None:
            raise self._late("has sent its shares before")
        roster = Roster(self._label, dict(keys), threshold)
        if keys.get(self.name) != self.advertise():
            raise MessageError(f"the server's list of keys for the secure sum lacks those of node {self.name!r}")
        n = len(keys)
        of_mask = shamir.split(self._mask.private_bytes_raw(), n, threshold, self._draw)
        of_seed = shamir.split(self._seed, n, threshold, self._draw)
        pairs = {name: a + b for name, a, b in zip(roster.names, of_mask, of_seed, strict=True)}
        self._own_shares = pairs.pop(self.name)
        # A nonce of zeros: the key seals this one parcel.
        parcels = {
            name: roster.channel(self._channel, self.name, self.name, name).encrypt(bytes(12), pair, None)
            for name, pair in pairs.items()
        }
        self._roster = roster
        return parcels

    def masked(self, values: Tensor, parcels: Mapping[str, bytes]) -> Tensor:
        """Phase 2: values under masks, uint8 [n, 7] (`fields.narrow`).

        Args:
            values: int64 [n], of `fields.pack`.
            parcels: what other parties have sealed for this one; who sent none takes no part from here on.

        Raises:
            SpoiltError: a parcel that cannot be opened, or holds no shares.
            MessageError: too few parcels, a value that may overflow the sum, or masked values were sent before: a
                second time would bare the difference.
        """
        roster = self._agreed_roster()
        if self._shares:
            raise self._late("has sent masked values before")
        strangers = sorted(parcels.keys() - set(roster.names))
        if strangers or self.name in parcels:
            raise MessageError(
                f"shares of {', '.join(strangers) or self.name!r} for node {self.name!r}: not in its sum"
            )
        most = fields.limit(len(roster.names))
        if values.dtype != int64 or values.ndim != 1 or bool(((values < -most) | (values > most)).any()):
            raise MessageError(f"node {self.name!r} has values for the secure sum beyond ±{most}: pack them first")
        roster.enough(len(parcels) + 1, "sent shares")
        shares = {self.name: self._own_shares} | {name: self._opened(roster, name, parcels[name]) for name in parcels}
        total = values.numpy().astype(np.int64).view(np.uint64)
        add_mask(total, roster.own_mask(self._seed, self.name), 1)
        for other in parcels:
            add_mask(total, roster.pair_mask(self._mask, self.name, other), 1 if self.name < other else -1)
        self._shares = shares
        return fields.narrow(total)

    def unmask(self, survivors: Collection[str]) -> dict[str, bytes]:
        """Phase 3: of each party of phase 2 one share, `shamir.SHARE` bytes.

        Args:
            survivors: whose masked values have come: of these, shares of the own mask; of the rest, of their secret.

        Raises:
            MessageError: too few survivors or others than in phase 2, or another list than before.
        """
        roster, listed = self._agreed_roster(), set(survivors)
        if not self._shares:
            raise self._late("has sent no masked values")
        if self._survivors not in (None, listed):
            raise MessageError(
                f"node {self.name!r} was told before that others are lost: shares for both lists would bare what a "
                "node sent; begin the sum again"
            )
        if strangers := sorted(listed - self._shares.keys()):
            raise MessageError(
                f"node {self.name!r} shares no masks with {', '.join(map(repr, strangers))}: not in its sum"
            )
        if self.name not in listed:
            raise MessageError(f"node {self.name!r} sent masked values, and is said to be lost: begin the sum again")
        roster.enough(len(listed), "sent masked values")
        self._survivors = listed
        cut = shamir.SHARE
        return {name: pair[cut:] if name in listed else pair[:cut] for name, pair in self._shares.items()}

    def _opened(self, roster: Roster, sender: str, parcel: bytes) -> bytes:
        try:
            pair = roster.channel(self._channel, self.name, sender, self.name).decrypt(bytes(12), parcel, None)
        except InvalidTag as error:
            raise SpoiltError(
                sender,
                f"node {self.name!r} {_CANNOT_OPEN.format(sender)}: they were changed on the way, or are of another "
                "sum; begin again without that node",
            ) from error
        if not (shamir.is_share(pair[: shamir.SHARE]) and shamir.is_share(pair[shamir.SHARE :])):
            raise SpoiltError(
                sender,
                f"node {self.name!r} {_CANNOT_OPEN.format(sender)}: what was sealed is no share; begin again without "
                "that node",
            )
        return pair

    def _agreed_roster(self) -> Roster:
        if self._roster is None:
            raise self._late("has sent no shares")
        return self._roster

    def _late(self, what: str) -> MessageError:
        return MessageError(f"node {self.name!r} {what} in the secure sum {self._label!r}: begin the sum again")


class Collector:
    """The server's side of one sum; who does not answer a phase is left out of what is asked next.

    Args:
        label: of `Roster`.
        keys: phase 0's answers.
        threshold: of `Roster`; `default_threshold` if not given.

    Raises:
        MessageError: as `Roster`.
    """

    def __init__(self, label: str, keys: Mapping[str, bytes], threshold: int | None = None) -> None:
        self.roster = Roster(label, dict(keys), default_threshold(len(keys)) if threshold is None else threshold)
        self._sharers: list[str] = []
        self._survivors: list[str] = []
        self._total: np.ndarray | None = None
        self._closed = False

    def route(self, sent: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
        """After phase 1: for each party that sent parcels, those that the others sent it.

        Raises:
            MessageError: too few answers, or parcels that are not one for each other party: names the node.
        """
        roster = self.roster
        _known(sent, roster.names, "sent shares")
        for name, parcels in sent.items():
            if parcels.keys() != set(roster.names) - {name} or any(len(p) != PARCEL for p in parcels.values()):
                raise MessageError(f"node {name!r} sent no parcel of {PARCEL} bytes for each other node: leave it out")
        roster.enough(len(sent), "sent shares")
        self._sharers = sorted(sent)
        return {
            receiver: {sender: sent[sender][receiver] for sender in self._sharers if sender != receiver}
            for receiver in self._sharers
        }

    def add(self, name: str, masked: Tensor) -> None:
        """Phase 2's answer of one party: added to the others', and not kept.

        Raises:
            MessageError: a party that is not in the sum, that is late or answers twice, or of another length.
        """
        _known([name], self._sharers, "sent masked values")
        if name in self._survivors or self._closed:
            raise MessageError(
                f"node {name!r} sent masked values {'late' if self._closed else 'twice'}: leave them out"
            )
        if masked.ndim != 2 or masked.shape[1] != fields.BYTES:
            raise MessageError(f"node {name!r} sent masked values of shape {tuple(masked.shape)}: leave it out")
        if self._total is None:
            self._total = np.zeros(len(masked), dtype=np.uint64)
        if len(masked) != len(self._total):
            raise MessageError(
                f"node {name!r} sent {len(masked)} masked values, those before it {len(self._total)}: give all nodes "
                "the same settings"
            )
        self._total += fields.widen(masked)
        self._survivors.append(name)

    def close(self) -> list[str]:
        """After phase 2: whose values are in the sum, in order; it is what phase 3 tells them. Nobody comes after.

        Raises:
            MessageError: too few answers.
        """
        self.roster.enough(len(self._survivors), "sent masked values")
        self._closed = True
        return sorted(self._survivors)

    def total(self, revealed: Mapping[str, Mapping[str, bytes]]) -> Tensor:
        """After phase 3: the sum over all that `close` named, int64 [n], for `fields.unpack`.

        Args:
            revealed: of those who answered, their shares.

        Raises:
            SpoiltError: shares that are none or do not fit the others', where it can be told whose: the same may be
                called again, without that node's.
            MessageError: too few answers, or shares that do not fit each other.
        """
        survivors, roster = self.close(), self.roster
        _known(revealed, survivors, "revealed shares")
        for name, shares in revealed.items():
            if shares.keys() != set(self._sharers) or not all(map(shamir.is_share, shares.values())):
                raise SpoiltError(name, f"node {name!r} did not reveal one share of each node in the sum: leave it out")
        roster.enough(len(revealed), "revealed shares")
        counts = shamir.weights([roster.place(name) for name in revealed])
        found = {owner: self._secret(owner, revealed, counts) for owner in self._sharers}
        assert self._total is not None
        total = self._total.copy()
        for owner, secret in found.items():
            if owner in survivors:
                add_mask(total, roster.own_mask(secret, owner), -1)
                continue
            private = X25519PrivateKey.from_private_bytes(secret)
            if private.public_key().public_bytes_raw() != roster.keys[owner][KEY:]:
                raise MessageError(
                    f"node {owner!r} shared another secret than that of its key: begin the sum again without it"
                )
            for other in survivors:
                add_mask(total, roster.pair_mask(private, owner, other), 1 if owner < other else -1)
        return fields.signed(total)

    def _secret(self, owner: str, revealed: Mapping[str, Mapping[str, bytes]], counts: Mapping[int, int]) -> bytes:
        """A party's seed or, if it was lost, the secret of its masks."""
        shares = {self.roster.place(name): found[owner] for name, found in revealed.items()}
        if (secret := shamir.combine(shares, counts)) is not None:
            return secret
        for name in sorted(revealed):
            rest = {place: share for place, share in shares.items() if place != self.roster.place(name)}
            if len(rest) >= self.roster.threshold and shamir.combine(rest) is not None:
                raise SpoiltError(
                    name,
                    f"node {name!r} revealed a share of node {owner!r} that is not what it was given: leave it out",
                )
        names = ", ".join(map(repr, sorted(revealed)))
        raise MessageError(
            f"nodes {names} revealed shares of node {owner!r} that do not fit each other, and they are too few to tell "
            "whose is spoilt: begin the sum again"
        )


def _known(names: Collection[str], among: Collection[str], did: str) -> None:
    if strangers := sorted(set(names) - set(among)):
        raise MessageError(
            f"nodes {', '.join(map(repr, strangers))} {did} and are not in the secure sum: leave them out"
        )
