"""Steering directions: the mean difference of two conditions at each layer, and what it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Dose, Job, Work, analysis
from layerlens.analyses.contract.effects import given, left_out
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.steering.steered_cell import open_steered
from layerlens.analyses.steering.steering_text import VARIABLES, Steering
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.model.sites import Site
from layerlens.run.many_edits import DEFAULT_LIMIT

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
COEFFICIENTS = (-0.5, -0.25, 0.0, 0.25, 0.5)


def count_work(
    model: LensModel,
    positive: Tokens,
    negative: Tokens,
    *,
    layers: Sequence[int] | None,
    coefficients: Sequence[float],
    text: Any,
    front: bool,
    verify: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    chosen = model.layers(layers)
    prompts = len(positive.ids) + len(negative.ids)
    passes = float(prompts * (2 if front else 1))
    rows = 0
    if text is not None:
        replayed = sum(1 - layer / model.n_layers for layer in chosen) * len(coefficients)
        passes += 2 * (1 + replayed + verify)
        rows = 2 * len(chosen) * len(coefficients)
    kept = 4 * max(positive.ids.shape[1], negative.ids.shape[1]) if front else 1
    states = 4 * model.d_model * len(chosen) * (prompts + 2) * kept
    return Work(passes, rows, states + 4 * 64 * model.d_vocab)


@analysis(
    name="steering",
    question="Which direction separates two conditions, at which layer, and does it steer?",
    source="Rimsky et al. (2024), Steering Llama 2 via Contrastive Activation Addition, arXiv "
    "2312.06681; Turner et al. (2023), Activation Addition, arXiv 2308.10248",
    cost="2 passes a pair; with a text, 2 replays for each layer and coefficient",
    view="panels",
    lead="The curves say how well each layer tells the two conditions apart; with a text, the "
    "slider says how much of the direction is added, and what that does.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    inputs=("positive", "negative"),
    doses=[Dose("coefficients", COEFFICIENTS, "how much is added", dim="coefficient")],
    effects={
        "steer_at": (given("text"), left_out("front")),
        **dict.fromkeys(
            ("front", "coefficients", "answer", "wrong", "metric", "neutral"), given("text")
        ),
    },
    opens=open_steered,
)
def steering(
    job: Job,
    model: LensModel,
    positive: Tokens,
    negative: Tokens,
    *,
    site: str = "resid_post",
    position: Any = -1,
    layers: Sequence[int] | None = None,
    text: Any = None,
    steer_at: Any = None,
    front: bool = False,
    coefficients: Sequence[float] = COEFFICIENTS,
    relative: bool = True,
    answer: Any = None,
    wrong: Any = None,
    metric: str | MetricFunction = "logit_diff",
    neutral: Any = None,
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Find at each layer the mean difference between paired prompts, and try it on a text.

    The direction of a layer is the mean over pairs of the positive prompt's state minus the
    negative one's, at one position. How well it separates the conditions is measured on pairs
    that it was not made of. With ``text``, multiples of it are added while that text runs, layer
    by layer, and the same is done to a neutral text to see what else changes.

    ``ll.edit("resid_post.7", "add", c * found.data.direction.sel(layer=7).values)`` adds ``c``
    times the direction of layer 7 in ``ll.run``; with ``always=True`` also at every token that
    ``model.generate`` makes. A ``coefficient`` here is a ``c`` of that many times ``scale``.

    Parameters
    ----------
    positive, negative
        Prompts of the two conditions, one list each: the first belongs to the first, and so on.
    site
        ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out`` or ``mlp_out``.
    position
        Where states are read: an index, or the text of a token (of a span: its last token); also
        a list with one for each pair.
    layers
        Blocks; None for all.
    text
        A text to steer; None: directions and separation only.
    steer_at
        Positions of the text at which the direction is added; None: all.
    front
        Add the prompts' difference position by position to the first positions of the text
        instead (ActAdd), where the shorter prompts are filled up with spaces at their end;
        published with one pair, ``site="resid_pre"`` and ``relative=False``. Its ``scale`` is that
        of the direction.
    coefficients
        How much of the direction is added. 0 must change nothing, and is checked where given.
    relative
        Coefficients are shares of the mean length of the layer's states, so that layers can be
        compared; else multiples of the direction itself.
    answer
    wrong
    metric
    neutral
        The text that shows the side effect: the KL divergence of its steered next-token
        distribution from the unsteered one. None: a plain English sentence (without a tokenizer
        there is none, and ``neutral_kl`` is NaN).
    verify
    memory_limit

    Notes
    -----
    ``jsd`` is a published way to choose a layer; where one channel is far larger than all others,
    its softmax sees that one alone. ``auc`` near 1 at every layer says that the conditions are
    easy to tell apart (often by a token), not that each layer steers: read it with
    ``dose_change`` and ``neutral_kl``. In late layers a direction acts on the logits almost
    directly. The layer that separates best by each measure stands among the notes.

    Raises
    ------
    InputError
        The lists do not pair up, or an option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.steering(model, [[5, 6], [7, 6]], [[5, 8], [7, 8]])
    >>> found.data.direction.shape
    (2, 64)
    """
    job.batched = False  # the prompts are one set of data, not several questions
    work = Steering(job, model, _sites(model, site, layers))
    doses = _doses(coefficients)
    how = {"position": position, "relative": relative, "front": front}
    work.find(positive, negative, doses if text is not None else [], **how)
    if text is not None:
        tokens = row_of(job.tokens(text), 0)
        options = {"verify": verify, "limit": memory_limit, "at": steer_at}
        work.steer(tokens, doses, metric, answer=answer, wrong=wrong, **options)
        work.disturb(neutral, doses, **options)
    work.finish()


def _doses(coefficients: Sequence[float]) -> list[float]:
    try:
        doses = [float(c) for c in coefficients]
    except (TypeError, ValueError):
        doses = []
    if not doses or not np.isfinite(doses).all():
        raise InputError(f"coefficients is {coefficients!r}; expected finite numbers.")
    return doses


def _sites(model: LensModel, kind: str, layers: Sequence[int] | None) -> list[Site]:
    """Where the directions are, one site a layer."""
    if kind not in SITES:
        raise nearest(str(kind), list(SITES), "Site of steering:")
    sites = [Site(kind, layer) for layer in model.layers(layers)]
    for found in sites:
        model.anatomy.tap(found)  # raises, and says why
    return sites
