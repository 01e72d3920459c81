"""Sentences of four words of our own, one rhythm: adjective, noun, verb, noun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

WORDS = 4
"""Of each sentence."""
_SENTENCES = (
    "young dogs chase cats", "old farmers grow apples", "poor boys eat bread",
    "good writers write books", "rich men buy houses", "tired workers drink coffee",
    "fast drivers crash cars", "happy girls sing songs", "strong horses pull carts",
    "brave soldiers defend cities", "small birds build nests", "famous artists paint pictures",
    "kind mothers tell stories", "local doctors treat patients", "proud kings wear crowns",
    "busy nurses clean rooms", "clever engineers design machines", "wise judges read letters",
    "hungry wolves hunt sheep", "modern scientists solve problems", "big ships carry gold",
    "new teachers give lessons", "wild bears catch fish", "quiet students learn languages",
    "angry crowds throw stones", "white clouds bring rain", "great leaders make plans",
    "hot winds dry fields", "bad players lose games", "careful pilots fly planes",
    "rough sailors cross oceans", "lazy clerks miss trains", "gentle women love gardens",
    "green frogs like water", "tall guards watch doors", "black ants move sand",
    "lucky winners get money", "honest lawyers keep promises", "cheap shops sell shoes",
    "skilled hands cut wood", "cold rivers cross valleys", "old uncles hear noises",
    "fresh students ask questions", "loud singers fill halls", "serious editors check facts",
    "blind poets feel pain", "friendly cooks prepare meals", "tiny insects destroy crops",
    "loyal customers save money", "nervous actors forget lines", "heavy storms damage roads",
    "sick children need milk", "polite guests bring flowers", "bold thieves steal jewels",
    "patient fathers fix toys", "bright stars guide travellers", "sharp knives cut meat",
    "eager readers open newspapers", "foreign visitors climb mountains",
    "senior officers follow orders", "silent monks ring bells", "cruel rulers start wars",
    "simple tools break rocks", "private companies hire people", "single parents raise sons",
    "brown cows produce cheese", "royal families own castles", "smart voters choose candidates",
    "strange voices scare neighbors", "public schools accept everyone",
    "dark forests hide animals", "early buses reach towns",
)  # fmt: skip


def four_word_sentences(model: LensModel | None = None, *, least: int = 24) -> list[str]:
    """Sentences whose beats are as even as a drum's: adjective, noun, verb, noun.

    Parameters
    ----------
    model
        Only sentences whose words are one token each in this model, so that a beat is a token.
    least
        How many there have to be.

    Returns
    -------
    list of str
        Lower case, no full stop; 72 at most.

    Raises
    ------
    InputError
        Fewer sentences are left: the model's vocabulary is not that of English words.

    Examples
    --------
    >>> sentences = four_word_sentences()
    >>> len(sentences), sentences[0]
    (72, 'young dogs chase cats')
    """
    if model is None:
        return list(_SENTENCES)
    found = [
        sentence
        for sentence in _SENTENCES
        if model.tokens(f"the {sentence}", add_bos=False).ids.shape[1] == WORDS + 1
    ]
    if len(found) < least:
        raise InputError(
            f"Only {len(found)} of {len(_SENTENCES)} sentences are of one token a word in "
            f"{model.name}: give sentences of your own, of any words."
        )
    return found
