"""Prompts that ask for one word of another language, from a small list of common nouns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from layerlens.errors import InputError
from layerlens.model.integers import whole

NOUNS = Path(__file__).with_name("nouns.json")


@dataclass(frozen=True)
class Language:
    """A language of the list.

    Attributes
    ----------
    own_name
        What it calls itself.
    nouns
        Common nouns; the nth means the same in every language.
    """

    own_name: str
    nouns: tuple[str, ...]


@cache
def languages() -> Mapping[str, Language]:
    """The languages of the list by their English names."""
    read = json.loads(NOUNS.read_text(encoding="utf-8"))
    return {
        name: Language(entry["own_name"], tuple(entry["nouns"].split()))
        for name, entry in read.items()
    }


@dataclass(frozen=True)
class Prompts:
    """Prompts with what may be said next.

    Attributes
    ----------
    texts
        One for each noun that is asked for.
    sets
        For each text, the noun in each language: what ``ll.language_track`` takes.
    left_out
        The nouns that are not asked for, in the language that is asked for.
    """

    texts: list[str]
    sets: list[dict[str, list[str]]]
    left_out: list[str]


def translation_prompts(
    source: str,
    target: str,
    *,
    also: str | Sequence[str] = "English",
    shots: int = 4,
    count: int | None = None,
    seed: int = 0,
) -> Prompts:
    """Ask for common nouns in another language, behind a few examples.

    As in Wendler et al. (2024), Do Llamas Work in English?, arXiv 2402.10588: lines of the form
    ``Français: "fleur" - Deutsch: "Blume"``, the last of which ends at the opening quote. Nouns
    whose translations, in the languages that are followed, hold one another (German "Wind",
    English "wind") are examples at most: seeing one would not tell its language.

    Parameters
    ----------
    source, target
        English names of the language that is given and the one that is asked for: English,
        French, German, Spanish, Italian, Chinese or Russian. The same twice asks for a
        repetition.
    also
        Languages that are followed besides these two.
    shots
        How many examples stand before each question.
    count
        How many nouns are asked for at most; None for all.
    seed
        Of the draw of the examples.

    Returns
    -------
    Prompts
        ``texts`` and ``sets`` go into ``ll.language_track``.

    Raises
    ------
    InputError
        A language is not in the list, or a number does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> asked = ll.translation_prompts("French", "German", shots=1, count=1)
    >>> print(asked.texts[0])
    Français: "ami" - Deutsch: "Freund"
    Français: "eau" - Deutsch: "
    >>> asked.sets[0]
    {'French': ['eau'], 'German': ['Wasser'], 'English': ['water']}
    """
    followed = list(dict.fromkeys([source, target, *([also] if isinstance(also, str) else also)]))
    for name in followed:
        if name not in languages():
            known = ", ".join(languages())
            raise InputError(f"{name!r} is no language of the list: expected one of {known}.")
    nouns = {name: languages()[name].nouns for name in followed}
    total = len(nouns[source])
    if not 0 <= whole(shots, "shots") < total:
        raise InputError(f"shots is {shots}; expected 0 to {total - 1}.")
    if count is not None and whole(count, "count") < 1:
        raise InputError(f"count is {count}; expected 1 or more, or None.")
    asked = [i for i in range(total) if _apart([nouns[name][i] for name in followed])]
    random = np.random.default_rng(seed)
    texts, sets = [], []
    for place in asked[:count]:
        others = [i for i in range(total) if i != place]
        shown = random.choice(others, shots, replace=False).tolist()
        lines = [_line(source, target, i) + f'{nouns[target][i]}"' for i in shown]
        texts.append("\n".join([*lines, _line(source, target, place)]))
        sets.append({name: [nouns[name][place]] for name in followed})
    left = [nouns[target][i] for i in range(total) if i not in asked[:count]]
    return Prompts(texts, sets, left)


def _line(source: str, target: str, place: int) -> str:
    one, other = languages()[source], languages()[target]
    return f'{one.own_name}: "{one.nouns[place]}" - {other.own_name}: "'


def _apart(words: Sequence[str]) -> bool:
    """Whether no word holds another, upper and lower case aside."""
    small = [word.casefold() for word in words]
    pairs = [(a, b) for i, a in enumerate(small) for j, b in enumerate(small) if i != j]
    return not any(a in b for a, b in pairs)
