"""Which names mean the same concept, or nearly: what keeps a test concept out of private rows."""

import re
import unicodedata
from collections.abc import Sequence

from isogram.data.pictures.stamps import LANGUAGES, Stamp

_STOP = frozenset(
    ["a", "an", "the", "some", "of", "and", "pair", "bunch", "group", "piece", "set", "kind", "is", "are"]
)
_PHRASE_ENDS = re.compile(
    r"\b(?:is|are|was|in|on|at|with|without|from|for|to|by|that|which|who|where|whose|because|as|and|or)\b|[.,;:!?(–—“”\"]"
)
_MEASURES = re.compile(r"\b(?:pair|bunch|group|piece|set|slice|kind|glass|cup|bowl|plate|bottle|head|ear|stack)s? of\b")


def token_set(name: str) -> frozenset[str]:
    """Words of the first sentence, without articles and measure words, in the singular.

    Names of the same set are one concept; a name of nothing else, such as "A.", stands for itself.
    """
    words = _words(re.split(r"[.!?;:(]", name.strip(' .!?;:(“”"'))[0])
    return frozenset(word for word in words if word not in _STOP) or frozenset([name.lower()])


def head_word(name: str) -> str:
    """Last word of the first noun phrase in the singular: "frog" for "Tree frogs on a leaf"."""
    phrase = _MEASURES.sub(" ", name.lower().strip(' .!?;:(“”"'))
    words = _words(re.split(r"\bof\b", _PHRASE_ENDS.split(phrase)[0])[0])
    words = [word for word in words if word not in _STOP]
    return words[-1] if words else "".join(sorted(token_set(name)))


def complete(stamps: Sequence[Stamp]) -> list[int]:
    """Positions of stamps with picture and all languages, no symbols; of several of one concept the first by path."""
    first: dict[frozenset[str], int] = {}
    for position, stamp in enumerate(stamps):
        if stamp.picture and stamp.spoken == LANGUAGES and not stamp.symbol:
            first.setdefault(token_set(stamp.name), position)
    return sorted(first.values())


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return [_singular(word) for word in re.findall(r"[a-z0-9]+", plain.replace("'", ""))]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and re.search(r"(?:sh|ch|x|ss)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
