"""A secure sum that goes on without nodes that are lost. A node's fate: the phase that it does not answer any more."""

import json

import numpy as np
import pytest
import secagg_vectors
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from isogram.errors import MessageError
from isogram.secure_sum import Collector, Party, default_threshold, shamir
from isogram.secure_sum.fields import limit

STAYS = 4


def values_of(n, seed=0, size=7):
    """Of each node; as large as they may be, of both signs."""
    most = limit(n)
    generator = torch.Generator().manual_seed(seed)
    return {f"n{i}": torch.randint(-most, most + 1, (size,), generator=generator) for i in range(n)}


class Session:
    """One sum, phase by phase; `fate` names those that are lost, and from which phase on."""

    def __init__(self, values, fate=None, threshold=None, label="sum"):
        self.values, self.fate, self.label = values, fate or {}, label
        self.parties = {name: Party(name, label) for name in values}
        self.collector = Collector(label, {name: p.advertise() for name, p in self.parties.items()}, threshold)

    def there(self, phase, names=None):
        return [name for name in names or self.parties if self.fate.get(name, STAYS) > phase]

    def share(self):
        roster = self.collector.roster
        self.sent = {name: self.parties[name].share(roster.keys, roster.threshold) for name in self.there(1)}
        self.parcels = self.collector.route(self.sent)
        return self

    def mask(self):
        self.masked = {
            name: self.parties[name].masked(self.values[name], self.parcels[name]) for name in self.there(2, self.sent)
        }
        for name, masked in self.masked.items():
            self.collector.add(name, masked)
        self.survivors = self.collector.close()
        return self

    def unmask(self):
        self.revealed = {name: self.parties[name].unmask(self.survivors) for name in self.there(3, self.survivors)}
        return self

    def total(self):
        return self.share().mask().unmask().collector.total(self.revealed)


@st.composite
def sessions(draw):
    n = draw(st.integers(2, 9))
    threshold = draw(st.none() | st.integers(n // 2 + 1, n))
    fates = draw(st.lists(st.sampled_from([1, 2, 3, STAYS, STAYS, STAYS]), min_size=n, max_size=n))
    return n, threshold, {f"n{i}": fate for i, fate in enumerate(fates)}


@given(session=sessions(), seed=st.integers(0, 2**32))
def test_the_sum_is_exact_over_those_that_sent_values_or_says_that_too_few_are_left(session, seed):
    n, threshold, fate = session
    values, needed = values_of(n, seed), threshold or default_threshold(n)
    found = Session(values, fate, threshold)
    there = [sum(when > phase for when in fate.values()) for phase in (1, 2, 3)]
    if min(there) < needed:
        first = next(count for count in there if count < needed)
        with pytest.raises(MessageError, match=f"^{first} of {n} nodes .* {needed} are needed: bring back"):
            found.total()
        return
    expected = sum(value for name, value in values.items() if fate[name] > 2)
    assert torch.equal(found.total(), expected)


@given(st.integers(2, 1000))
def test_the_default_threshold_is_two_thirds_and_more_than_half(n):
    assert default_threshold(n) == int(np.ceil(2 * n / 3)) and n < 2 * default_threshold(n) <= 2 * n


@pytest.mark.parametrize(("n", "threshold"), [(2, 1), (4, 2), (9, 4), (3, 4), (3, 0), (3, -1)])
def test_a_threshold_of_half_or_less_is_refused_by_both_sides(n, threshold):
    parties = {f"n{i}": Party(f"n{i}", "sum") for i in range(n)}
    keys = {name: party.advertise() for name, party in parties.items()}
    for make in (lambda: Collector("sum", keys, threshold), lambda: parties["n0"].share(keys, threshold)):
        with pytest.raises(MessageError, match="more than half"):
            make()


def test_a_sum_of_one_hides_nothing():
    for n in (0, 1):
        with pytest.raises(MessageError, match=f"over {n} nodes hides nothing"):
            Collector("sum", {f"n{i}": bytes(64) for i in range(n)})


def test_what_is_sent_is_to_the_byte_what_it_was():
    assert secagg_vectors.make() == json.loads(secagg_vectors.PATH.read_text(encoding="utf-8"))


def test_the_masks_of_the_vectors_are_those_of_the_paper():
    """Equation of phase 2, by primitives alone: y_u = x_u + PRG(b_u) + sum_{u<v} PRG(s_uv) - sum_{u>v} PRG(s_uv)."""
    kept = json.loads(secagg_vectors.PATH.read_text(encoding="utf-8"))
    keys = {name: bytes.fromhex(text) for name, text in kept["keys"].items()}
    context = hashes.Hash(hashes.SHA256())
    context.update(json.dumps([secagg_vectors.LABEL, 3, [[name, keys[name].hex()] for name in "abcd"]]).encode())
    digest = context.finalize().hex()

    def stream(secret, *purpose):
        info = json.dumps(["isogram secure sum", digest, *purpose]).encode()
        key = HKDF(hashes.SHA256(), 32, None, info).derive(secret)
        made = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(8 * 6))
        return [int.from_bytes(made[at : at + 8], "little") for at in range(0, 48, 8)]

    for name, masked in kept["masked"].items():
        draw = secagg_vectors.fixed(name)
        _, secret, seed = draw(32), X25519PrivateKey.from_private_bytes(draw(32)), draw(32)
        expected = [x + m for x, m in zip(secagg_vectors.VALUES[name], stream(seed, "own", name), strict=True)]
        for other in set("abcd") - {name}:
            common = secret.exchange(X25519PublicKey.from_public_bytes(keys[other][32:]))
            sign = 1 if name < other else -1
            pair = stream(common, "pair", *sorted((name, other)))
            expected = [x + sign * m for x, m in zip(expected, pair, strict=True)]
        assert masked == b"".join((x % 2**56).to_bytes(7, "little") for x in expected).hex()
    assert kept["total"] == [sum(column) for column in zip(*(secagg_vectors.VALUES[n] for n in "abc"), strict=True)]


@pytest.mark.parametrize("value", [0, 1, -(2**40)])
def test_masked_values_are_uniform_whatever_they_hide(value):
    # Every bit is a fair coin to within six standard deviations, also beside the bit before it and that of the other
    # run: an unmasked or half-masked value has constant bits, the same masks again the same ones.
    size = 20_000
    runs = [Session(dict.fromkeys(("n0", "n1", "n2"), torch.full((size,), value))).share().mask() for _ in range(2)]
    slack = 6 * 0.5 / size**0.5
    for name in runs[0].masked:
        one, two = (np.unpackbits(run.masked[name].numpy(), axis=1) for run in runs)
        for bits in (one, one[1:] ^ one[:-1], one ^ two):
            np.testing.assert_allclose(bits.mean(0), 0.5, atol=slack)


def test_what_the_server_has_before_the_last_phase_hides_the_sum_too():
    """Own masks stay: with all pairwise masks cancelled the bare sum of what came is still uniform."""
    size = 20_000
    found = Session(dict.fromkeys(("n0", "n1", "n2"), torch.zeros(size, dtype=torch.int64))).share().mask()
    bits = np.unpackbits(found.collector._total.view(np.uint8).reshape(-1, 8)[:, :7], axis=1)
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=6 * 0.5 / size**0.5)


def test_a_node_reveals_for_one_list_alone_and_of_each_node_one_share():
    found = Session(values_of(5), {"n3": 2}).share().mask()
    party = found.parties["n0"]
    first = party.unmask(found.survivors)
    assert party.unmask(found.survivors[::-1]) == first
    assert first.keys() == set(found.values)
    with pytest.raises(MessageError, match="was told before that others are lost"):
        party.unmask(["n0", "n1", "n2", "n3"])
    with pytest.raises(MessageError, match="was told before that others are lost"):
        party.unmask(list(found.values))
    party = Session(found.values, found.fate).share().mask().parties["n0"]
    for listed, match in [
        (["n1", "n2", "n3", "n4"], "'n0' sent masked values, and is said to be lost"),
        (["n0", "n1", "n2", "n9"], "no masks with 'n9'"),
        (["n0", "n1", "n2"], "3 of 5 nodes"),
    ]:
        with pytest.raises(MessageError, match=match):
            party.unmask(listed)


def test_phases_are_done_once_and_in_order():
    found = Session(values_of(3))
    party, roster = found.parties["n0"], found.collector.roster
    with pytest.raises(MessageError, match="'n0' has sent no shares"):
        party.masked(found.values["n0"], {})
    with pytest.raises(MessageError, match="'n0' has sent no shares"):
        party.unmask(["n0"])
    found.share()
    with pytest.raises(MessageError, match="'n0' has sent its shares before"):
        party.share(roster.keys, roster.threshold)
    with pytest.raises(MessageError, match="'n0' has sent no masked values"):
        party.unmask(list(found.values))
    found.mask()
    with pytest.raises(MessageError, match="'n0' has sent masked values before"):
        party.masked(found.values["n0"] + 1, found.parcels["n0"])
    for late in ("n0", "n1"):
        with pytest.raises(MessageError, match=f"'{late}' sent masked values late"):
            found.collector.add(late, found.masked["n0"])


@pytest.mark.parametrize("at", [0, 70, 147])
def test_a_parcel_changed_on_the_way_names_its_sender(at):
    found = Session(values_of(3)).share()
    parcel = bytearray(found.parcels["n0"]["n2"])
    parcel[at] ^= 1
    with pytest.raises(MessageError, match="'n0' cannot open the shares that node 'n2' sent it"):
        found.parties["n0"].masked(found.values["n0"], found.parcels["n0"] | {"n2": bytes(parcel)})


def test_a_parcel_for_another_node_or_of_another_sum_does_not_open():
    found = Session(values_of(3)).share()
    own = found.parcels["n0"]
    for parcel in (
        found.sent["n2"]["n1"],
        found.sent["n0"]["n2"],
        own["n1"],
        Session(values_of(3)).share().sent["n2"]["n0"],
    ):
        with pytest.raises(MessageError, match="'n0' cannot open the shares that node 'n2' sent it"):
            found.parties["n0"].masked(found.values["n0"], own | {"n2": parcel})
    assert torch.equal(found.mask().unmask().collector.total(found.revealed), sum(found.values.values()))


def test_nodes_that_were_told_of_other_keys_or_another_sum_cannot_open_each_others_parcels():
    parties = {name: Party(name, "sum" if name != "c" else "other sum") for name in "abc"}
    keys = {name: party.advertise() for name, party in parties.items()}
    sent = {name: party.share(keys, 2) for name, party in parties.items()}
    with pytest.raises(MessageError, match="'a' cannot open the shares that node 'c' sent it: .* another sum"):
        parties["a"].masked(torch.zeros(1, dtype=torch.int64), {"b": sent["b"]["a"], "c": sent["c"]["a"]})


@pytest.mark.parametrize("lost", [False, True], ids=["of a seed", "of masks"])
@pytest.mark.parametrize("bit", [0, 300, 520])
def test_a_spoilt_share_names_who_revealed_it_and_the_sum_goes_on_without(lost, bit):
    found = Session(values_of(6), {"n5": 2}).share().mask().unmask()
    owner, good = "n5" if lost else "n1", found.revealed["n2"]
    share = int.from_bytes(good[owner], "big") ^ (1 << bit)
    found.revealed["n2"] = good | {owner: share.to_bytes(shamir.SHARE, "big")}
    with pytest.raises(MessageError, match=f"'n2' revealed a share of node '{owner}' .*: leave it out"):
        found.collector.total(found.revealed)
    del found.revealed["n2"]
    total = found.collector.total(found.revealed)
    assert torch.equal(total, sum(value for name, value in found.values.items() if name != "n5"))


@pytest.mark.parametrize("lost", [False, True], ids=["of a seed", "of masks"])
def test_a_spoilt_share_among_as_many_as_are_needed_shows_all_the_same(lost):
    found = Session(values_of(6), {"n5": 2, "n0": 3}).share().mask().unmask()
    owner = "n5" if lost else "n1"
    share = int.from_bytes(found.revealed["n2"][owner], "big") ^ 1
    found.revealed["n2"] |= {owner: share.to_bytes(shamir.SHARE, "big")}
    with pytest.raises(MessageError, match=f"nodes 'n1', 'n2', 'n3', 'n4' revealed shares of node '{owner}'"):
        found.collector.total(found.revealed)


def test_a_node_that_shared_another_secret_than_its_own_is_named():
    found = Session(values_of(3), {"n2": 2})
    found.parties["n2"]._mask, true = X25519PrivateKey.generate(), found.parties["n2"]._mask
    split = found.parties["n2"].advertise
    found.parties["n2"].advertise = lambda: split()[:32] + true.public_key().public_bytes_raw()
    with pytest.raises(MessageError, match="'n2' shared another secret"):
        found.total()


@pytest.mark.parametrize("share", [b"", bytes(65), bytes(67), b"\xff" * 66, None])
def test_what_is_no_share_names_who_revealed_it(share):
    found = Session(values_of(4)).share().mask().unmask()
    shares = found.revealed["n2"] | {"n1": share}
    found.revealed["n2"] = {name: value for name, value in shares.items() if value is not None}
    with pytest.raises(MessageError, match="'n2' did not reveal one share of each node"):
        found.collector.total(found.revealed)


def test_malformed_messages_name_their_node():
    values = values_of(3)
    keys = {name: Party(name, "sum").advertise() for name in values}
    with pytest.raises(MessageError, match="'n1' sent keys of 63 bytes"):
        Collector("sum", keys | {"n1": bytes(63)})
    party = Party("n0", "sum")
    with pytest.raises(MessageError, match="'n1' sent a key of small order"):
        party.share(keys | {"n0": party.advertise(), "n1": bytes(64)}, 2)
    with pytest.raises(MessageError, match="lacks those of node 'n0'"):
        Party("n0", "sum").share(keys, 2)
    found = Session(values).share()
    for spoilt in ({"n0": b""}, {"n0": bytes(148), "n9": bytes(148)}, {"n0": bytes(147), "n2": bytes(148)}):
        with pytest.raises(MessageError, match="'n1' sent no parcel of 148 bytes for each"):
            found.collector.route(found.sent | {"n1": spoilt})
    with pytest.raises(MessageError, match="'n9' sent shares and are not in"):
        found.collector.route(found.sent | {"n9": {}})
    with pytest.raises(MessageError, match="'n9' sent masked values and are not in"):
        found.collector.add("n9", torch.zeros(7, 7, dtype=torch.uint8))
    with pytest.raises(MessageError, match=r"'n1' sent masked values of shape \(7,\)"):
        found.collector.add("n1", torch.zeros(7, dtype=torch.uint8))
    found.collector.add("n0", torch.zeros(7, 7, dtype=torch.uint8))
    with pytest.raises(MessageError, match="'n0' sent masked values twice"):
        found.collector.add("n0", torch.zeros(7, 7, dtype=torch.uint8))
    with pytest.raises(MessageError, match="'n1' sent 6 masked values, those before it 7"):
        found.collector.add("n1", torch.zeros(6, 7, dtype=torch.uint8))
    for parcels in ({"n9": bytes(148)}, {"n0": bytes(148)}):
        with pytest.raises(MessageError, match="not in its sum"):
            found.parties["n0"].masked(values["n0"], found.parcels["n0"] | parcels)


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([limit(3) + 1]),
        torch.tensor([-limit(3) - 1]),
        torch.tensor([-(2**63)]),
        torch.zeros(3),
        torch.zeros((2, 2), dtype=torch.int64),
    ],
)
def test_values_that_could_overflow_the_sum_are_refused(values):
    found = Session(values_of(3)).share()
    with pytest.raises(MessageError, match="'n0' has values for the secure sum beyond"):
        found.parties["n0"].masked(values, found.parcels["n0"])


def test_the_input_is_left_as_it_was():
    values = values_of(3)
    before = {name: value.clone() for name, value in values.items()}
    Session(values).share().mask()
    for name, value in values.items():
        assert torch.equal(value, before[name])
