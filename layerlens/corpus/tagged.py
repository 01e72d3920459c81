"""Texts whose words have labels, put to a model's tokens: parts of speech, by spaCy or by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.corpus.texts import Texts, texts
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

Tagged = Iterable[tuple[int, int, str]]
"""The words of a text: the first character, the one behind the last, and what the word is."""
Tagger = Callable[[str], Tagged]


class SpacyTagger:
    """Parts of speech as a pipeline of spaCy tells them: silver labels, of which some are wrong.

    Needs spaCy, extra ``[spacy]``, and one of its pipelines, such as ``en_core_web_sm``.

    Parameters
    ----------
    pipeline
        The name of an installed pipeline, or a pipeline itself; None for the one that is installed.
    fine
        The pipeline's own tags (``"VBD"``) in place of the universal ones (``"VERB"``).

    Attributes
    ----------
    name
        Which pipeline, in words.

    Raises
    ------
    InputError
        spaCy or the pipeline is not there, or there are several to choose from.
    """

    def __init__(self, pipeline: Any = None, *, fine: bool = False) -> None:
        self._pipeline = _loaded(pipeline) if pipeline is None or isinstance(pipeline, str) \
            else pipeline  # fmt: skip
        meta = self._pipeline.meta
        self.name = f"spaCy's {meta['lang']}_{meta['name']} {meta['version']}"
        self._fine = fine

    def __call__(self, text: str) -> list[tuple[int, int, str]]:
        """The words of a text, white space aside, and what each is."""
        return [
            (word.idx, word.idx + len(word.text), word.tag_ if self._fine else word.pos_)
            for word in self._pipeline(text)
            if not word.is_space
        ]


def tagged_texts(model: LensModel, source: Any, tagger: Tagger | None = None) -> Texts:
    """Texts as token ids, with a label for the last token of each word: for ``position="each"``.

    A word is labelled where all of it was read, at its last token; all other tokens have None, as
    does the last token of a word that it shares with another one. The texts are token ids, so that
    nothing is put in front of them later, which would move the labels.

    Parameters
    ----------
    model
        Whose tokenizer cuts the words.
    source
        A list, a file, a data frame or a dataset, or ``ll.texts`` of it.
    tagger
        Gives the words of a text: where each begins, where it ends, and what it is. None for
        `SpacyTagger`: its labels are **silver**, told by a model and not by a person, and results
        say so. Gold labels of your own: ``tagger=words_by_text.__getitem__``.

    Returns
    -------
    Texts
        With labels, and the groups that `source` has.

    Raises
    ------
    InputError
        The tokenizer does not say where its tokens stand, no word has a label, or spaCy is asked
        and is not there.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> words = {"cat dog": [(0, 3, "noun"), (4, 7, "verb")]}
    >>> found = next(tagged_texts(model, ["cat dog"], words.__getitem__).items())
    >>> [model.token_string(index) for index in found.text], found.label
    (['<bos>', 'cat', 'dog'], [None, 'noun', 'verb'])
    """
    if not getattr(model.tokenizer, "is_fast", False):
        raise InputError(
            f"The tokenizer of {model.name} does not say where in a text its tokens stand, so "
            "labels of words cannot be put to them: give token ids and labels to ll.texts."
        )
    own = SpacyTagger() if tagger is None else tagger
    ids, labels, groups = [], [], []
    for item in (source if isinstance(source, Texts) else texts(source)).items():
        if item.text is None or not item.text.strip():
            continue
        tokens = model.tokens(item.text).ids[0].tolist()
        ids.append(tokens)
        labels.append(_labels(item.text, _places(model, item.text, tokens), own(item.text)))
        groups.append(item.group)
    if all(label is None for one in labels for label in one):
        raise InputError("No word of these texts has a label: look at what the tagger gives.")
    found = texts(ids, label=labels, group=None if None in groups else groups)
    found.labelled_by = getattr(own, "name", None)
    return found


def _places(model: LensModel, text: str, ids: list[int]) -> list[tuple[int, int] | None]:
    """Where in the text each token stands, white space before it aside; None for special ones."""
    assert model.tokenizer is not None
    given = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    plain = list(given["input_ids"])
    start = next((at for at in range(len(ids)) if ids[at : at + len(plain)] == plain), None)
    if start is None:
        raise InputError(
            f"The tokenizer of {model.name} reads {text[:40]!r} otherwise when it adds its own "
            "tokens, so labels of words cannot be put to them: give token ids and labels to "
            "ll.texts."
        )
    found: list[tuple[int, int] | None] = [None] * len(ids)
    for at, (first, last) in enumerate(given["offset_mapping"], start):
        piece = text[first:last]
        found[at] = (first + len(piece) - len(piece.lstrip()), last)
    return found


def _labels(text: str, places: Sequence[tuple[int, int] | None], words: Tagged) -> list[str | None]:
    """The label of each token that ends a word and is of no other."""
    known = list(words)
    word: list[int | None] = [None] * len(text)
    for number, (first, last, _) in enumerate(known):
        word[first:last] = [number] * (last - first)
    of = [set(word[slice(*place)]) - {None} if place else set() for place in places]
    ends = {one: at for at, several in enumerate(of) for one in several}
    found: list[str | None] = [None] * len(places)
    for own, at in ends.items():
        if own is not None and len(of[at]) == 1:
            found[at] = known[own][2]
    return found


def _loaded(name: str | None) -> Any:
    """A pipeline of this name, or the one that is installed."""
    try:
        import spacy
    except ImportError:
        raise InputError(
            "Parts of speech come from spaCy: pip install 'jupyter-layerlens[spacy]' and one of "
            "its pipelines, or give tagger= words of your own."
        ) from None
    known = sorted(spacy.util.get_installed_models())
    if name not in known and (name is not None or len(known) != 1):
        there = f"there are {', '.join(known)}" if known else "none is installed"
        raise InputError(
            f"{'There is no pipeline ' + repr(name) if name else 'Which pipeline of spaCy?'}: "
            f"{there}; give SpacyTagger(name), after python -m spacy download en_core_web_sm where "
            "there is none."
        )
    # The parser stays: which words are auxiliaries is told by what it says.
    return spacy.load(name or known[0], exclude=["ner", "lemmatizer"])
