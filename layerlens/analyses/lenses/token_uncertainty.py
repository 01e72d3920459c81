"""How sure a model is of each token of a text, and whether that tells right from wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.lenses.claims import Judge
from layerlens.analyses.lenses.early_exit import exits_of
from layerlens.analyses.lenses.readers import LOGIT, Lens, reader_of, told_reader
from layerlens.analyses.lenses.uncertainty import MIN_K_PLUS, VARIABLES, Uncertainty
from layerlens.analyses.lenses.uncertainty_cell import open_uncertainty
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 400_000_000


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    max_new_tokens: int,
    lens: Lens,
    top_k: int,
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    points = len(exits_of(model, reader_of(model, lens))) + 1
    texts = len(tokens.ids)
    read = sum(tokens.lengths) + texts * max_new_tokens
    longest = max(tokens.lengths) + max_new_tokens
    answer = texts * longest * (12 * top_k + 128) + points * longest * 8
    fed = read + (sum(tokens.lengths) + texts * max_new_tokens if max_new_tokens else 0)
    rows = points * read + texts * max_new_tokens
    return Work(1, rows, answer + memory_limit // 2, fed, steps=texts * max_new_tokens)


@analysis(
    name="token_uncertainty",
    question="How sure is the model of each token, and does that tell right from wrong?",
    source="Fadeeva et al., LM-Polygraph: Uncertainty Estimation for Language Models (2023), "
    "arXiv 2311.07383; claim-conditioned probability: Fadeeva et al. (2024), arXiv 2403.04696; "
    "output signatures: Bar-Shalom et al., Beyond Next Token Probabilities (2025), "
    "arXiv 2503.14043; worst tokens: Shi et al., Detecting Pretraining Data from Large Language "
    f"Models (2023), arXiv 2310.16789; {MIN_K_PLUS}",
    cost="1 pass a text, with one product of every layer with the head; a step for each token that "
    "is written",
    view="grid",
    lead="A dark cell is a token that the model doubted, by one measure a row; press it to see "
    "what could have stood there. Doubt is worth what it adds to the position alone, where tokens "
    "are labelled.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head", "causal"),
    opens=open_uncertainty,
)
def token_uncertainty(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    max_new_tokens: int = 0,
    labels: Any = None,
    judge: Judge | None = None,
    lens: Lens = LOGIT,
    top_k: int = 10,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Say of each token how sure the model was when it stood before it.

    A token is judged by the prediction made from the tokens before it, so the first one has no
    numbers.

    Parameters
    ----------
    max_new_tokens
        How many tokens to write first, the best one each time; then only these count in sums and
        labels. 0: the text is taken as it is.
    labels
        What is wrong (1) and what is right (0): of a text, a mapping of spans to labels
        (``{"Rome": 1, "1889": 0}``; positions may stand for a span), or a list with one for each
        token and None where nothing is said; for several texts a list of these.
    judge
        A function of two texts that says whether the first entails the second: ``"entailment"``,
        ``"contradiction"`` or ``"neutral"``. It is asked in both directions about the text up to a
        token and the same with each of the ``top_k`` likeliest others in its place.
    lens
        How the layers are read that may agree: ``"logit"``, what ``ll.fit_lens`` returns, or the
        path of its file.
    top_k
        How many of the likeliest tokens are kept, and judged: the output's signature.
    memory_limit

    Notes
    -----
    ``doubt`` has one row for each ``measure``, all from 0 to 1: ``token`` (1 minus the
    probability of the token), ``top`` (of the likeliest), ``margin`` (1 minus likeliest minus
    second), ``entropy`` (over the logarithm of the vocabulary), ``layers`` (1 minus
    ``layer_agreement``: the share of the states between blocks at which the likeliest token is
    that of the end), ``claim`` (1 minus ``claim_probability``). That probability is that of the
    tokens that say the same over that of those that say the same or the contrary; a judge that
    finds a word without a claim may answer "entailment". It sees tokens, which may be parts of
    words.

    ``sequence_surprisal``, ``mean_surprisal`` and ``mean_entropy`` are lm-polygraph's
    MaximumSequenceProbability, Perplexity (a logarithm there too) and MeanTokenEntropy;
    ``claim_score`` is minus its CCP. ``worst_surprisal`` is minus Min-K% and
    ``worst_standard_score`` is Min-K%++, both of the fifth of the tokens that is worst; larger
    speaks for a text that was seen in training, though neither is proof of it.

    ``auroc`` is 0.5 for a score that knows nothing. ``position`` is such a score, and
    ``auroc_shuffled`` what shuffled labels give. The score of a span is the mean doubt of its
    tokens, for ``token`` 1 minus the geometric mean of their probabilities, for ``claim`` 1 minus
    the product. Intervals are over texts, or in one text over its tokens and spans, which are not
    independent: believe those of several texts.

    Raises
    ------
    InputError
        A text has one token only, or an option does not fit.
    ModelError
        Tokens are to be written by a model that cannot.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.token_uncertainty(model, "cat dog owl cat dog bee", labels={"bee": 1, 4: 0})
    >>> found.data.doubt.sel(measure="token").values.round(2)[4:].tolist()
    [1.0, 0.0, 1.0]
    >>> float(found.data.auroc.sel(score="token"))
    1.0
    """
    if not 2 <= top_k <= model.d_vocab:
        raise InputError(f"top_k is {top_k}; expected 2 to {model.d_vocab}.")
    if judge is not None and not callable(judge):
        raise InputError(f"judge is {judge!r}; expected a function of two texts.")
    new = whole(max_new_tokens, "max_new_tokens")
    if new < 0:
        raise InputError(f"max_new_tokens is {new}; expected a whole number from 0.")
    starts = [length if new else 1 for length in tokens.lengths]
    read = written(job, model, tokens, new) if new else tokens
    if min(read.lengths) < 2:
        raise InputError("A text has one token, about which nothing is predicted: give two.")
    reader = told_reader(job, model, lens)
    points = [point for point in exits_of(model, reader) if point.layer >= 0]
    work = Uncertainty(job, model, read, starts, top_k, judge)
    work.units(labels)
    work.run(Head.of(model, memory_limit // 2), reader, points, wrote=bool(new))
    job.note(passes=len(read.ids), lens=reader.name)
    if new:
        texts = ["".join(strings) for strings in read.strings]
        job.note(new_text=json.dumps(texts, ensure_ascii=False))


def written(job: Job, model: LensModel, tokens: Tokens, new: int) -> Tokens:
    """The texts with what the model writes behind each of them."""
    rows = []
    for ids, mask in zip(tokens.ids, tokens.mask, strict=True):
        job.tick()
        rows.append(model.generate(ids[mask].tolist(), new).ids)
        job.progress(len(rows), len(tokens.ids), "texts")
    return job.tokens(rows[0] if tokens.single else rows)
