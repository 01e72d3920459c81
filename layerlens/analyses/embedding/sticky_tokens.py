"""Sticky tokens: those that pull the similarity of any two texts to the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.embedding.pooling import MOST_TOKENS, Embedder, pooling_of
from layerlens.analyses.embedding.sticky_run import ALIKE, CURVES, LAYER_PAIRS, Asked, StickyRun
from layerlens.analyses.embedding.sticky_variables import VARIABLES
from layerlens.errors import InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    candidates: int | Sequence[str | int],
    insertions: int,
    pairs: int,
    shortlist: int,
    verify_pairs: int,
    **_: object,
) -> Work:
    """Count tokens and bytes of one call; runs nothing."""
    texts = len(tokens.lengths)
    length = sum(tokens.lengths) / texts
    # Of texts of one half there are so many pairs at most, and about half are below the mean.
    most = max(1, texts * (texts - 2) // 16)
    pairs, verify_pairs = min(pairs, most), min(verify_pairs, most)
    scored = candidates if isinstance(candidates, int) else len(candidates)
    alone = 3 * (model.d_vocab_in if isinstance(candidates, int) else scored)
    proved = 2 * min(shortlist, scored)
    altered = 3 * insertions * (scored * pairs + proved * verify_pairs)
    in_layers = LAYER_PAIRS * (proved // 2 + CURVES + 1)
    fed = (altered + in_layers) * (length + insertions / 2) + alone + 3 * sum(tokens.lengths)
    vectors = 4 * model.d_model * (model.d_vocab_in + 3 * insertions * max(pairs, verify_pairs))
    states = 16 * MOST_TOKENS * model.d_model
    return Work(1, 0, vectors + states, tokens=int(fed))


@analysis(
    name="sticky_tokens",
    question="Which tokens, put into a text, pull its similarity with any other text to the mean?",
    source="Sticking to the Mean: Detecting Sticky Tokens in Text Embedding Models (2025), and its "
    "published code",
    cost="24 passes over a text for each candidate and pair, 48 for each shortlisted token and "
    "pair that it is proved on",
    view="panels",
    lead="A token that brings more than 0.877 of the pairs nearer to the mean similarity is called "
    "sticky. Most tokens bring many nearer, because the text is then less about its subject: look "
    "at the other tokens beside.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
)
def sticky_tokens(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    pooling: str | None = None,
    candidates: int | Sequence[str | int] = 200,
    insertions: int = 8,
    pairs: int = 5,
    shortlist: int = 10,
    verify_pairs: int = 30,
    seed: int = 0,
) -> None:
    """Find tokens of a sentence encoder that make any two texts about as similar as the mean.

    Parameters
    ----------
    tokens
        Texts of many subjects, each another one. Half of them make the shortlist, the other half
        proves it; no text is in both.
    pooling
        How states become one vector of a text: ``"mean"``, ``"first"`` or ``"last"``. None: as the
        model's folder says (sentence-transformers).
    candidates
        Which tokens are scored, as strings or ids; a number: so many of those that a text can
        become, the ones whose vector by itself is most like the mean of the shortlist's texts.
    insertions
        A token is put in 1, 2, ... up to so many times.
    pairs
        Pairs of texts that each candidate is scored on.
    shortlist
        So many of the candidates with the highest score are proved on other texts.
    verify_pairs
        Pairs of texts that they are proved on.
    seed
        Of the halves, of the places where tokens are put anywhere, and of the other tokens.

    Notes
    -----
    Pairs are less similar than the mean of all texts, and spread evenly over 80 % of the way from
    the least similar one to the mean. One text of a pair stays; into the other the token is put at
    its beginning, its end, or anywhere. ``score`` is the source's: how much and how often the
    similarity rises from one time to the next, over how much and how often it falls. ``share`` is
    the share of pairs whose similarity, mean over 1 to ``insertions`` times, is nearer to the mean
    than without, places weighted 4 : 4 : 3; above ``1 - 1/(3e)`` = 0.877 a token is called sticky,
    below ``1 - 1/e`` = 0.632 not.

    Of the source are the pairs, the places, score, weights and thresholds. It scores every token
    (24 passes for each and pair, hours on a CPU), proves 2 % of them on 250 pairs that may share
    texts with the first 5, takes for the mean that of the vectors of all tokens, and counts pairs
    whose similarity rises, past the mean or not. The choice of candidates, texts held out, the mean
    over texts, and that a token is put in as its id (a string may become other tokens) are ours; so
    are all controls: for each shortlisted token another that was no candidate, drawn among those
    whose input embedding is about as long. ``share_chance`` shows that 0.632 is no chance level:
    insertion alone brings most pairs nearer.

    ``pull`` is the cosine of a text's pooled state with the mean text's, with the token at its
    beginning ``insertions`` times minus without; ``attention`` what the text's own tokens give to
    the inserted ones, mean over heads. Special tokens are never candidates.

    Raises
    ------
    InputError
        The model does not say how it pools, texts are the same or too few, or an option does not
        fit.
    ModelError
        The body of the model gives no states.

    Examples
    --------
    >>> import layerlens as ll
    >>> texts = ["cat dog owl", "fox bee", "hen pig cow", "ant eel", "bat ram", "ape gnat hen"]
    >>> found = ll.sticky_tokens(
    ...     ll.load("toy:induction"), texts, pooling="mean", candidates=["cat", "goat"],
    ...     insertions=2, verify_pairs=3,
    ... )
    >>> found.data.share.shape, found.data.attrs["pooling"]
    ((2,), 'mean')
    """
    counts = {
        "insertions": insertions,
        "pairs": pairs,
        "shortlist": shortlist,
        "verify_pairs": verify_pairs,
    }
    if isinstance(candidates, int):
        counts["candidates"] = candidates
    for name, value in counts.items():
        if whole(value, name) < 1:
            raise InputError(f"{name} is {value}; expected 1 or more.")
    if isinstance(candidates, str) or (not isinstance(candidates, int) and not len(candidates)):
        raise InputError(f"candidates is {candidates!r}; expected a number or a list of tokens.")
    how = pooling_of(model, pooling)
    job.note(pooling=how, alike=ALIKE)
    asked = Asked(candidates, insertions, pairs, shortlist, verify_pairs, seed)
    StickyRun(job, model, tokens, Embedder(model, how, job.tick), asked).run()
