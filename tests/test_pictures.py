"""Talking pictures on made-up stamps: sources, concepts, and who holds what. The real set, where it is in the cache."""

import io
import json
import tarfile
from collections import Counter
from importlib import import_module

import numpy as np
import pytest

from isogram.data import evaluation, load, pictures
from isogram.data.pictures import emoji, encode, features, stamps
from isogram.data.pictures.concepts import complete, head_word, token_set
from isogram.data.pictures.features import MODALITIES, Catalogue
from isogram.data.pictures.protocol import HELD_OUT, POOL, Corpus, deal, divide, split
from isogram.data.pictures.stamps import LANGUAGES, Stamp
from isogram.errors import AnchorError, DataError

# Head words: thing-0 to thing-149 three times over, red, blue and green.
COMPLETE = [f"A {colour} thing{i}." for i in range(150) for colour in ("red", "blue", "green")]
OTHERS = ["A thing3", "A sad thing200", "Two thing201s", "thing201", "A thing202 of glass"]
SMILEYS = ["thing7", "red thing8", "sad thing200", *(f"smiley{i}" for i in range(40))]
N = len(COMPLETE)


@pytest.fixture(scope="module")
def corpus():
    """Row r of a part holds the number r in every token, so a row tells where it is from."""
    things = [Stamp(f"things/{i:03d}", name, ".png", LANGUAGES) for i, name in enumerate(COMPLETE)]
    spoken = (("fr", "ru"), ("fr",), ("fr", "es"), (), ("fr",))
    rest = [Stamp(f"x/{i}", name, ".svg", langs) for i, (name, langs) in enumerate(zip(OTHERS, spoken, strict=True))]
    rest.append(Stamp("x/copy", COMPLETE[0].upper(), ".png", LANGUAGES))
    found = (*things, *rest)
    catalogue = Catalogue(found, tuple(SMILEYS), tuple(complete(found)))
    sizes = {m: len(catalogue.holding(m)) for m in MODALITIES}
    sizes |= {"emoji-picture": 2 * len(SMILEYS), "emoji-text": len(SMILEYS)}
    parts = {
        name: {"tokens": np.tile(np.arange(n, dtype=np.float16)[:, None, None], (1, 2, 3))} for name, n in sizes.items()
    }
    for name in sizes:
        if name.startswith("speech"):
            parts[name]["seconds"] = np.arange(sizes[name], dtype=np.float32) + 1
    pixels = np.arange(sizes["picture"], dtype=np.uint64)
    pixels[N + 4] = pixels[17]  # thing202 is drawn as a complete concept is
    parts["picture"]["pixels"] = pixels
    return Corpus(catalogue, parts)


def name_of(corpus, modality, part, row):
    if part.startswith("emoji"):
        return SMILEYS[row // 2 if modality == "picture" else row]
    return corpus.catalogue.stamps[corpus.catalogue.holding(modality)[row]].name


@pytest.mark.parametrize("tuning", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_concept_is_at_one_node_and_no_test_concept_at_any(corpus, seed, tuning):
    division = divide(N, 50, seed, tuning)
    dealt = deal(corpus, division, seed)
    held = {m: {token_set(name_of(corpus, m, *given)) for given in dealt[m]} for m in MODALITIES}
    assert sum(map(len, held.values())) == len(set.union(*held.values()))
    public = [corpus.catalogue.complete[i] for i in np.union1d(division.test, division.held_out)]
    hidden = {head_word(corpus.catalogue.stamps[i].name) for i in public}
    heads = {head_word(name_of(corpus, m, *given)) for m in MODALITIES for given in dealt[m]}
    assert len(hidden) > 50 and len(heads) > 30 and not hidden & heads
    anchors = {token_set(COMPLETE[i]) for i in division.anchors}
    assert not anchors & set.union(*held.values())
    assert min(map(len, dealt.values())) > 3


def test_what_is_like_a_complete_concept_goes_to_nobody(corpus):
    for seed in range(10):
        dealt = deal(corpus, divide(N, 50, seed, False), seed)
        for modality in MODALITIES:
            rows = [(part, row) for part, row in dealt[modality] if not part.startswith("emoji")]
            paths = [corpus.catalogue.stamps[corpus.catalogue.holding(modality)[row]].path for _, row in rows]
            assert "x/copy" not in paths and max(Counter(paths).values()) == 1
            assert modality != "picture" or "x/4" not in paths
        assert "red thing8" not in [SMILEYS[row] for part, row in dealt["text"] if part == "emoji-text"]


def test_stamps_and_emoji_of_one_name_are_dealt_as_one(corpus):
    """Thing200 has two drawings as an emoji, one as a stamp, a French voice, two names: all at one node or another."""
    whose = set()
    for seed in range(30):
        dealt = deal(corpus, divide(N, 50, seed, False), seed)
        holders = {m: [g for g in dealt[m] if "thing200" in name_of(corpus, m, *g)] for m in MODALITIES}
        (modality,) = [m for m, given in holders.items() if given]
        whose.add(modality)
        parts = Counter(part for part, _ in holders[modality])
        expected = {"picture": {"picture": 1, "emoji-picture": 2}, "text": {"text": 1, "emoji-text": 1}}
        assert parts == expected.get(modality, {"speech-fr": 1})
    assert whose == {"picture", "speech-fr", "text"}


def test_rows_are_of_the_concepts_they_are_said_to_be(corpus):
    data = split(corpus, anchors=50, seed=0)
    with evaluation():
        for modality in MODALITIES:
            names = [COMPLETE[int(row[0, 0])] for row in data.held_out.tokens(modality)]
            assert tuple(names) == data.held_out.ids and len(names) == HELD_OUT
            assert [COMPLETE[int(row[0, 0])] for row in data.anchors.items[modality].tokens] == list(data.anchors.ids)
        np.testing.assert_array_equal(
            data.held_out.control("speech-ru"), data.held_out.tokens("speech-ru")[:, 0, 0] + 1
        )
        np.testing.assert_array_equal(data.held_out.control("text"), [len(name) for name in data.held_out.ids])
    assert data.held_out.controlled == MODALITIES[1:] and data.anchors.items["picture"].control is None
    few = data.subset_anchors(np.array([2, 5]))
    np.testing.assert_array_equal(few.anchors.items["text"].control, [len(data.anchors.ids[i]) for i in (2, 5)])
    assert data.held_out.paired and data.classes == () and data.name == "pictures"


def test_fewer_anchors_are_a_prefix_and_change_nothing_else(corpus):
    many, few = (split(corpus, anchors=k, seed=4) for k in (POOL, 10))
    assert few.anchors.ids == many.anchors.ids[:10] and few.held_out.hash == many.held_out.hash
    for one, two in zip(few.nodes, many.nodes, strict=True):
        np.testing.assert_array_equal(one.tokens, two.tokens)


def test_tuning_and_the_upper_bound_touch_no_test_concept(corpus):
    data, tuning = split(corpus, anchors=100, seed=4), split(corpus, anchors=100, seed=4, tuning=True)
    test = set(data.held_out.ids)
    assert not test & {*tuning.held_out.ids, *tuning.anchors.ids, *tuning.all_paired().ids, *data.all_paired().ids}
    assert set(tuning.held_out.ids) <= set(split(corpus, anchors=POOL, seed=4).anchors.ids[100:])
    assert not set(tuning.held_out.ids) & {*tuning.anchors.ids, *tuning.all_paired().ids}
    assert len(data.all_paired()) == N - HELD_OUT and len(tuning.all_paired()) == N - HELD_OUT - 100


@pytest.mark.parametrize(("anchors", "tuning", "pool"), [(201, False, 200), (101, True, 100), (3, False, 200)])
def test_anchors_beyond_the_pool_are_refused(corpus, anchors, tuning, pool):
    with pytest.raises(AnchorError, match=f"pool of {pool}"):
        split(corpus, anchors=anchors, seed=0, tuning=tuning)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("A cherry.", "Some cherries"),
        ("A pair of glasses.", "glasses"),
        ("A camera. Say Cheese!", "camera"),
        ("A knight\u2019s helmet.", "knight's helmet"),
        ("A leaf of an elm", "an elm leaf"),
    ],
)
def test_names_that_mean_the_same(one, two):
    assert token_set(one) == token_set(two)


def test_names_that_do_not():
    assert len({token_set(name) for name in ("A bus.", "A school bus.", "A", "B", "A glass.", "A gla")}) == 6


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("A tree frog on a leaf.", "frog"),
        ("A bunch of grapes.", "grape"),
        ("A candy cane is a traditional treat.", "cane"),
        ("A tower with a red flag.", "tower"),
        ("Hard candy—yum!", "candy"),
        ("The baby of a gnu", "baby"),
        ("...", "..."),
    ],
)
def test_head_words(name, head):
    assert head_word(name) == head


def packed(files, *, kind="xz"):
    """A Debian package of these files."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode=f"w:{kind}") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{kind}": inner.getvalue()}
    raw = b"!<arch>\n"
    for name, data in members.items():
        raw += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return raw


ROOT = "./usr/share/tuxpaint/stamps/"
STAMPS = {
    f"{ROOT}animals/koala.txt": b"A koala.  Sleepy!\nfr.utf8=Un koala.\n",
    f"{ROOT}animals/koala.png": b"pixels",
    f"{ROOT}animals/koala_desc_fr.ogg": b"voice",
    f"{ROOT}animals/koala_desc_nl.ogg": b"not kept",
    f"{ROOT}symbols/a.b.txt": b"The letter A.",
    f"{ROOT}symbols/a.b.svg": b"<svg/>",
    f"{ROOT}symbols/silent.txt": b"\n",
    f"{ROOT}../escape.txt": b"out",
    "./usr/share/doc/copyright.txt": b"GPL",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOGRAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", ["xz", "gz"])
def test_a_package_given_by_hand_is_unpacked_once(tmp_path, cache, monkeypatch, kind):
    deb = tmp_path / "stamps.deb"
    deb.write_bytes(packed(STAMPS, kind=kind))
    with pytest.raises(DataError, match="not the stamps of") as error:
        stamps.fetch_stamps(deb)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(stamps, "_CONTENT", str(error.value).split()[-1].rstrip(")"))
    folder = stamps.fetch_stamps(deb)
    assert stamps.read_stamps(folder) == [
        Stamp("animals/koala", "A koala. Sleepy!", ".png", ("fr",)),
        Stamp("symbols/a.b", "The letter A.", ".svg", ()),
    ]
    assert sorted(p.name for p in cache.rglob("*") if p.is_file()) == [
        "a.b.svg", "a.b.txt", "koala.png", "koala.txt", "koala_desc_fr.ogg", "silent.txt",
    ]  # fmt: skip
    deb.unlink()
    assert stamps.fetch_stamps(deb) == folder


@pytest.mark.parametrize("raw", [b"", b"no archive at all", packed(STAMPS)[:90], packed(STAMPS)[:-300]])
def test_a_package_that_is_none_is_refused(tmp_path, cache, raw):
    (tmp_path / "bad.deb").write_bytes(raw)
    with pytest.raises(DataError, match="bad.deb"):
        stamps.fetch_stamps(tmp_path / "bad.deb")
    with pytest.raises(DataError, match="cannot read"):
        stamps.fetch_stamps(tmp_path / "absent.deb")
    assert not stamps.stamps_folder().exists()


def test_without_apt_the_package_is_asked_for(cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(stamps.StorageError, match="--deb PATH"):
        stamps.fetch_stamps()


def npm(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_emoji_that_all_vendors_draw_are_read(cache, tmp_path, monkeypatch):
    def drawn(names):
        icons = {
            "width": 32,
            "height": 16,
            "icons": {name: {"body": f"<path id='{name}'/>"} for name in names.values()},
        }
        return [json.dumps(icons).encode(), json.dumps(names).encode()]

    groups = {"🐨 koala": "Animals", "🦘 kangaroo": "Animals", "❤️ heart": "Things", "🏁 flag": "Flags"}
    named = {both.split()[0]: {"name": both.split()[1], "group": group} for both, group in groups.items()}
    words = {"annotations": {"annotations": {"🐨": {"default": ["bear", "koala"]}}}}
    members = [("icons", "chars"), ("icons", "chars"), ("data-by-emoji",), ("annotations/en/annotations",)]
    contents = [
        drawn({"1f428": "koala-a", "2764": "heart-a", "1f3c1": "flag-a"}),
        drawn({"1f428": "koala-b", "1f998": "roo-b", "2764": "heart-b", "1f3c1": "flag-b"}),
        [json.dumps(named).encode()],
        [json.dumps(words).encode()],
    ]
    archives = {}
    packages = [*emoji.VENDORS, emoji._NAMES, emoji._KEYWORDS]
    for package, names, data in zip(packages, members, contents, strict=True):
        files = {f"package/{name}.json": each for name, each in zip(names, data, strict=True)}
        archives[package.name] = npm(tmp_path / f"{len(archives)}.tgz", files)
    fetch = import_module("isogram.data.fetch")  # the package's attribute of this name is the function
    monkeypatch.setattr(fetch, "_download", lambda package, folder: archives[package.name])
    with pytest.raises(DataError, match=r"unicode-emoji-json 0\.9\.0: .*sha256"):
        emoji.read_emoji()
    monkeypatch.setattr(
        fetch.hashlib, "sha256", lambda data: Digest(next(p for p in packages if archives[p.name].read_bytes() == data))
    )
    koala, heart = emoji.read_emoji()
    assert (koala.name, koala.keywords, heart.name, heart.keywords) == ("koala", ("bear", "koala"), "heart", ())
    assert (
        "koala-a" in koala.drawings[0] and "koala-b" in koala.drawings[1] and 'viewBox="0 0 32 16"' in koala.drawings[0]
    )
    archives.clear()
    assert emoji.read_emoji() == [koala, heart]
    assert encode.paraphrased("A koala.", koala) == "koala: bear"
    assert encode.paraphrased("A tram.", None) == "This is a picture of a tram"


class Digest:
    """A pinned sha256, whatever the content."""

    def __init__(self, package):
        self.hexdigest = lambda: package.sha256


def test_an_interrupted_part_goes_on_where_it_stopped(tmp_path):
    items, seen, told, stop = list(range(150)), [], [], [2]

    def work(chunk):
        if len(seen) in stop:
            raise KeyboardInterrupt
        seen.append(chunk)
        return {"tokens": np.array(chunk, np.float16)[:, None], "seconds": np.array(chunk, np.float32)}

    with pytest.raises(KeyboardInterrupt):
        encode.encode_part(tmp_path, "speech", items, work, lambda *say: told.append(say))
    assert not (tmp_path / "speech.npz").exists() and told[-1] == ("speech", 128, 150)
    stop.clear()
    encode.encode_part(tmp_path, "speech", items, work, lambda *say: told.append(say))
    assert seen == [items[:64], items[64:128], items[128:]] and told[-1] == ("speech", 150, 150)
    np.testing.assert_array_equal(features.load(tmp_path / "speech.npz")["seconds"], items)
    assert [path.name for path in tmp_path.iterdir()] == ["speech.npz"]


def test_what_is_not_encoded_yet_is_told_with_the_command(cache):
    with pytest.raises(DataError, match="isogram data fetch pictures"):
        load("pictures", anchors=200, seed=0)
    (cache / "x.npz").parent.mkdir()
    (cache / "x.npz").write_bytes(b"half")
    with pytest.raises(DataError, match=r"x.npz cannot be read.*delete it"):
        features.load(cache / "x.npz")


real = pytest.mark.skipif(not pictures.encoded(), reason="the talking pictures are not in the cache")


@real
def test_the_real_set_has_what_its_protocol_says():
    catalogue = features.read_catalogue()
    assert (len(catalogue.stamps), len(catalogue.complete), len(catalogue.emoji)) == (952, 589, 1363)
    data = load("pictures", anchors=200, seed=0)
    assert [node.name for node in data.nodes] == list(MODALITIES) and len(data.anchors) == 200
    shapes = [(2, 1280), (16, 384), (16, 384), (16, 384), (4, 384)]
    assert [node.tokens.shape[1:] for node in data.nodes] == shapes
    assert min(len(node.tokens) for node in data.nodes) > 50
    with evaluation():
        assert all(len(data.held_out.tokens(m)) == HELD_OUT for m in MODALITIES)
        assert all(data.held_out.control(m).min() > 0.1 for m in MODALITIES[1:])


@real
@pytest.mark.parametrize("modality", MODALITIES)
def test_variants_are_of_the_same_concepts(modality):
    """Of the standardised anchors the nearest to a variant is its own far more often than one in fifty."""
    data, variants = load("pictures", anchors=50, seed=0), pictures.variant_items(0, 50)
    own, other = data.anchors.items[modality], variants[modality]
    np.testing.assert_array_equal(own.index, other.index)
    assert own.tokens.shape == other.tokens.shape and not np.array_equal(own.tokens, other.tokens)
    a, b = ((x - x.mean(0)) / (x.std(0) + 1e-6) for x in (own.tokens.reshape(50, -1), other.tokens.reshape(50, -1)))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    assert np.mean((b @ a.T).argmax(1) == np.arange(50)) > 0.3
    if modality.startswith("speech"):
        ratio = np.round(other.control / own.control, 1)
        assert set(ratio.tolist()) == set(np.float32([0.9, 1.2]).tolist())  # 1 / 1.15 and 1 / 0.85
