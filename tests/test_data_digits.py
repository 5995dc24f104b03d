import numpy as np
import pytest

from isogram.data.base import evaluation
from isogram.data.digits import Corpus, load_digits, split
from isogram.errors import ConfigError, HeldOutError

MODALITIES = ("image", "speech", "pen")


def stand_ins():
    """Corpora whose only token is the number of their content and whose class is its last digit.

    Every seventh content occurs twice, under both of its row numbers.
    """
    out = {}
    for modality, n in (("image", 2400), ("speech", 2000), ("pen", 2600)):
        number = np.random.default_rng(n).permutation(np.r_[np.arange(n), np.arange(0, n, 7)])
        content = tuple(int(i).to_bytes(4, "big") for i in number)
        out[modality] = Corpus(content, number.astype(np.float32)[:, None, None], number % 10)
    return out


@pytest.fixture(scope="module")
def corpora():
    return stand_ins()


@pytest.fixture(scope="module")
def made(corpora):
    return split(corpora, anchors=5, seed=0)


@pytest.fixture(scope="module")
def published():
    return load_digits(anchors=5, seed=0)


@pytest.fixture(params=["made", "published"])
def data(request):
    return request.getfixturevalue(request.param)


def parts(data, modality):
    private = next(node.tokens for node in data.nodes if node.modality == modality)
    with evaluation():
        return private, data.anchors.items[modality].tokens, data.held_out.tokens(modality)


def test_sizes(data):
    assert data.modalities == tuple(node.name for node in data.nodes) == MODALITIES
    assert data.classes == tuple("0123456789") and not data.held_out.paired
    for modality in MODALITIES:
        assert [len(rows) for rows in parts(data, modality)] == [1000, 50, 500]
        with evaluation():
            np.testing.assert_array_equal(np.bincount(data.held_out.labels(modality)), [50] * 10)


def test_published_shapes(published):
    assert [node.tokens.shape[1:] for node in published.nodes] == [(16, 49), (16, 13), (8, 15)]


def test_only_the_image_node_has_labels(data):
    image, speech, pen = data.nodes
    assert image.classes == tuple(range(10)) and (image.labels >= 0).all()
    assert speech.labels is None and pen.labels is None


def test_no_content_is_in_two_splits(data):
    for modality in MODALITIES:
        rows = [row.tobytes() for part in parts(data, modality) for row in part]
        assert len(set(rows)) == len(rows) == 1550


def test_rows_keep_their_labels(made):
    np.testing.assert_array_equal(made.nodes[0].tokens.ravel() % 10, made.nodes[0].labels)
    for modality in MODALITIES:
        with evaluation():
            np.testing.assert_array_equal(made.held_out.tokens(modality).ravel() % 10, made.held_out.labels(modality))


def test_an_anchor_is_one_digit_in_every_modality_and_every_digit_has_as_many(made):
    digit = {modality: made.anchors.items[modality].tokens.ravel() % 10 for modality in MODALITIES}
    np.testing.assert_array_equal(digit["image"], digit["speech"])
    np.testing.assert_array_equal(digit["image"], digit["pen"])
    np.testing.assert_array_equal(np.bincount(digit["image"].astype(int)), [5] * 10)


def test_neither_order_nor_id_of_an_anchor_tells_its_digit(corpora):
    full = split(corpora, anchors=20, seed=0)
    digit = full.anchors.items["image"].tokens.ravel() % 10
    number = np.array([int(name.removeprefix("digit-tuple-")) for name in full.anchors.ids])
    assert (np.diff(number) > 0).all()
    for guess in (number // 20, number % 10, number % 20 // 2):
        assert np.mean(guess == digit) < 0.2  # chance is .1
    other = split(corpora, anchors=20, seed=1)
    assert np.mean(other.anchors.items["image"].tokens.ravel() % 10 == digit) < 0.2


def test_fewer_anchors_are_a_subset_and_change_nothing_else(corpora, made):
    full = split(corpora, anchors=20, seed=0)
    keep = np.array([full.anchors.ids.index(name) for name in made.anchors.ids])
    assert full.anchors.subset(keep).hash == made.anchors.hash
    for modality in MODALITIES:
        for i in (0, 2):
            np.testing.assert_array_equal(parts(full, modality)[i], parts(made, modality)[i])


def test_the_seed_decides_everything(corpora, made):
    again, other = split(corpora, anchors=5, seed=0), split(corpora, anchors=5, seed=1)
    assert again.anchors.hash == made.anchors.hash != other.anchors.hash
    for modality in MODALITIES:
        for same, part, different in zip(*(parts(d, modality) for d in (again, made, other)), strict=True):
            np.testing.assert_array_equal(same, part)
            assert (different != part).any()


def test_held_out_rows_are_sealed(data):
    for read in (data.held_out.tokens, data.held_out.labels):
        with pytest.raises(HeldOutError):
            read("speech")


@pytest.mark.parametrize("anchors", [0, 21])
def test_more_anchors_than_the_pool_are_refused(anchors):
    with pytest.raises(ConfigError):
        load_digits(anchors=anchors, seed=0)
