"""Labelled sentences at hand: made of templates and words of our own, for probes to be tried on.

Each function returns texts with labels and groups, as ``ll.texts`` makes them. A group is what must
not stand on both sides of a fold (a country, a pair of nouns), or a probe could learn it by heart.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from layerlens.corpus.texts import Texts, texts

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens",
    "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw", "Hungary": "Budapest",
    "Sweden": "Stockholm", "Norway": "Oslo", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Ireland": "Dublin", "Belgium": "Brussels", "England": "London", "Turkey": "Ankara",
    "Iran": "Tehran", "Iraq": "Baghdad", "India": "Delhi", "Thailand": "Bangkok",
    "Vietnam": "Hanoi", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Kenya": "Nairobi",
    "Canada": "Ottawa", "Ukraine": "Kyiv",
}  # fmt: skip
"""Country to capital."""
_STATEMENTS = ("{city} is the capital of {country}", "The capital of {country} is {city}")
_NOUNS = (
    ("key", "keys"), ("boy", "boys"), ("teacher", "teachers"), ("car", "cars"), ("dog", "dogs"),
    ("author", "authors"), ("picture", "pictures"), ("farmer", "farmers"),
)  # fmt: skip
_PLACES = (
    ("cabinet", "cabinets"), ("garden", "gardens"), ("house", "houses"), ("school", "schools"),
)  # fmt: skip
_VERBS = (
    ("walks", "walked"), ("opens", "opened"), ("paints", "painted"), ("plays", "played"),
    ("calls", "called"), ("cleans", "cleaned"), ("visits", "visited"), ("helps", "helped"),
)  # fmt: skip


def capital_statements(seed: int = 0, capitals: Mapping[str, str] | None = None) -> Texts:
    """True and false statements of capitals; label ``"true"`` or ``"false"``, group the pair.

    Countries are put into pairs, and within a pair each city is named in a true and in a false
    statement. A pair never stands on both sides of a fold, so that words alone lead nowhere: what
    reads nothing but the city or the country is right half of the time.

    Parameters
    ----------
    seed
        Of which countries make a pair.
    capitals
        Country to capital; None for `CAPITALS`. `layerlens.corpus.places.world_capitals` has them
        all. Of an odd number one is left out.

    Examples
    --------
    >>> first = next(iter(capital_statements().items()))
    >>> first.label, first.text.split()[1:4]
    ('true', ['is', 'the', 'capital'])
    """
    known = CAPITALS if capitals is None else capitals
    countries = np.random.default_rng(seed).permutation(list(known)).tolist()
    rows = [
        (template.format(country=country, city=known[city]), label, " and ".join(pair))
        for pair in zip(countries[::2], countries[1::2], strict=False)
        for country, other in (pair, pair[::-1])
        for city, label in ((country, "true"), (other, "false"))
        for template in _STATEMENTS
    ]
    return _texts(rows)


def agreement_sentences() -> Texts:
    """Beginnings whose verb has to agree; label the subject's number, group its noun.

    Between subject and verb stands another noun of either number, which must not be taken for it
    (Linzen, Dupoux and Goldberg, 2016, arXiv 1611.01368).

    Examples
    --------
    >>> first = next(iter(agreement_sentences().items()))
    >>> first.text, first.label, first.group
    ('The key to the cabinet', 'singular', 'key')
    """
    numbers = ("singular", "plural")
    return _texts([(text, numbers[own], noun) for text, own, _, noun in _subjects()])


def agreement_pairs() -> tuple[Texts, Texts]:
    """Sentences whose verb agrees with their subject, and the same whose verb does not.

    Label the number of the noun in between (``"same"`` as the subject's or ``"other"``), group the
    subject's noun. Each verb is as often right as wrong, so that liking one helps nobody.

    Examples
    --------
    >>> good, bad = agreement_pairs()
    >>> first, partner = (next(iter(side.items())) for side in (good, bad))
    >>> first.text, partner.text, first.label, first.group
    ('The key to the cabinet is old', 'The key to the cabinet are old', 'same', 'key')
    """
    verbs = ("is", "are")
    good, bad = (
        [
            (f"{text} {verbs[own ^ wrong]} old", "same" if own == other else "other", noun)
            for text, own, other, noun in _subjects()
        ]
        for wrong in (0, 1)
    )
    return _texts(good), _texts(bad)


def _subjects() -> list[tuple[str, int, int, str]]:
    """Beginnings, whether their subject and the noun behind it are plurals, and the subject."""
    return [
        (f"The {noun[own]} {'to' if noun[0] == 'key' else 'near'} the {place[other]}",
         own, other, noun[0])
        for noun, place, own, other in product(_NOUNS, _PLACES, (0, 1), (0, 1))
    ]  # fmt: skip


def tense_sentences() -> Texts:
    """Short sentences; label the tense of their verb, group that verb.

    Examples
    --------
    >>> first = next(iter(tense_sentences().items()))
    >>> first.text, first.label, first.group
    ('The key walks near the cabinet', 'present', 'walks')
    """
    tenses = ("present", "past")
    rows = [
        (f"The {noun[0]} {verb[tense]} near the {place[0]}", tenses[tense], verb[0])
        for verb, noun, place, tense in product(_VERBS, _NOUNS[:4], _PLACES, (0, 1))
    ]
    return _texts(rows)


def head_words() -> tuple[Texts, list[list[tuple[int, int]]]]:
    """Sentences whose verb stands near or far from its subject, and which word belongs to which.

    For each text the pair of the verb and its subject, counted in words; group the subject. What
    stands in between differs, so that no distance is always right.

    Examples
    --------
    >>> sentences, arcs = head_words()
    >>> next(iter(sentences)), arcs[0]
    ('The key is old', [(2, 1)])
    """
    rows, arcs = [], []
    for noun, place, own in product(_NOUNS, _PLACES[:2], (0, 1)):
        verb = ("is", "are")[own]
        for before, after in ((), ()), (("small",), ()), ((), ("near", "the", place[1 - own])), (
            ("very", "small"), ("near", "the", place[own])
        ):  # fmt: skip
            words = ["The", *before, noun[own], *after, verb, "old"]
            rows.append((" ".join(words), "", noun[0]))
            arcs.append([(len(words) - 2, 1 + len(before))])
    return _texts(rows), arcs


def nonsense_labels(groups: list[str], seed: int = 0) -> list[str]:
    """Draw a label for each group that means nothing; a probe of it should find nothing.

    Examples
    --------
    >>> nonsense_labels(["a", "a", "b"], seed=1)
    ['blip', 'blip', 'blop']
    """
    known = list(dict.fromkeys(groups))
    random = np.random.default_rng(seed)
    half = ["blip", "blop"] * (len(known) // 2 + 1)
    drawn = dict(zip(known, random.permutation(half[: len(known)]).tolist(), strict=True))
    return [drawn[group] for group in groups]


def _texts(rows: list[tuple[str, str, str]]) -> Texts:
    whole, labels, groups = ([row[place] for row in rows] for place in range(3))
    return texts(whole, label=labels, group=groups)
