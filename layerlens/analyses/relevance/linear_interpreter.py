"""A text's pass as one matrix and one constant a depth: what biases add, and what a push does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import given
from layerlens.analyses.probing.untrained import untrained as untrained_model
from layerlens.analyses.relevance.affine_map import MORE, SETTLED
from layerlens.analyses.relevance.linear_cell import open_push
from layerlens.analyses.relevance.linear_text import PARTS, PUSHES, SHARES, Depths, LinearText
from layerlens.analyses.sweeps.clean_pass import tolerance
from layerlens.analyses.sweeps.straight_way import INSIDE
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.run.flow import require_flow

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

USUAL_ROUNDS = 8
"""Rounds that singular values take, about."""

_PUSH = ("point", "push")
VARIABLES = {
    "answer_change": Variable(
        _PUSH, "float64", "logit", "size of the answer's change by one unit added to a state"
    ),
    "state_change": Variable(
        _PUSH, "float64", "1", "size of the last state's change by one unit added to a state"
    ),
    "singular_value": Variable(
        ("point", "rank"), "float64", "1", "largest singular values of the map"
    ),
    "bias_share": Variable(
        ("point", "share"),
        "float64",
        "1",
        "share of what biases add",
        formula="|b| / (|A x| + |b|)",
    ),
    "answer_part": Variable(
        ("point", "part"), "float64", "logit", "parts of the answer", signed=True, hidden=True
    ),
    "vote": Variable(
        ("point", "position"), "float64", "logit", "vote of the token", signed=True, hidden=True
    ),
    "bias": Variable(
        ("point", "entry"), "float32", "1", "last state where all states are 0", hidden=True
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Any,
    draws: int,
    singular: int,
    rounds: int,
    untrained: bool,
    **_: Any,
) -> Work:
    """Count passes, rows and bytes of one call, as if singular values took the usual rounds."""
    begun = [0, *(layer + 1 for layer in model.layers(layers))]
    depth = sum(1 - layer / model.n_layers for layer in begun)
    wide = min(singular + MORE, model.d_model) if singular else 0
    beside = untrained and singular > 0
    found = 3 * wide * min(rounds, USUAL_ROUNDS)
    rows = 7 + 2 * draws + found * (1 + beside) + beside
    own = 7 + 4 * beside
    state = max(tokens.lengths) * model.d_model * model.dtype.itemsize
    held = state * model.n_layers * INSIDE
    return Work(own + rows * depth, 4 + draws, held * (1 + wide))


@analysis(
    name="linear_interpreter",
    question="With patterns, norms and activations held as in this text, what matrix and what "
    "constant is the model from each depth on?",
    source="linear interpreters as in LinearScope: A Tour of Convolutional Networks Guided by "
    "Linear Interpreters; Ali et al. (2022), XAI for Transformers: Better Explanations through "
    "Conservative Propagation, arXiv 2202.07304 (what is held)",
    cost="7 passes a text, and at each depth 7 shorter ones and 2 more for each random direction; "
    "with singular values about 8 rounds of a pass and a way back of 4 texts or more, twice with "
    "an untrained model beside",
    view="panels",
    lead="What one unit added to a token's state at a depth does at the end: in the model held at "
    "this text, and in the model itself, which is free to react to it. The further the two are "
    "apart, the less the matrix says of the model. A point opens the next token with that state "
    "really doubled.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    gradients=True,
    effects={"rounds": given("singular"), "untrained": given("singular")},
    opens=open_push,
)
def linear_interpreter(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    answer: str | int | Sequence[str | int] | None = None,
    wrong: str | int | Sequence[str | int] | None = None,
    layers: Any = None,
    position: Any = None,
    draws: int = 4,
    singular: int = 3,
    rounds: int = 20,
    untrained: bool = True,
    seed: int = 0,
) -> None:
    """Hold the model at a text and look at the affine map that it is from each depth on.

    Norms keep their statistics, activations their slopes from zero (gates what they gave), and
    attention its patterns. The last state, where the text is answered, is then ``A x + b`` of all
    tokens' states ``x`` at a depth. It is run again at other states: at 0 for ``b``, and at a
    single direction at one token for a column of ``A``.

    Parameters
    ----------
    answer
    wrong
        Take the difference of two logits: the answer's less this token's.
    layers
        Depths are the embedding and after these blocks; None for all.
    position
        The token that is pushed, as an index or its text; None for the one at which the text is
        answered.
    draws
        Random directions, and random answers (or pairs of them).
    singular
        How many singular values of ``A``; 0 for none.
    rounds
        Rounds of power iteration at most: it ends where none grows by more than 1 % in one.
    untrained
        Ask for those of the same architecture with random weights, held at the same text, too.
    seed
        Of directions, answers and the untrained model.

    Notes
    -----
    ``answer_part`` is the answer's logit in its two parts: what the states carry, ``w A x``, and
    what biases from there on add, ``w b`` (``w`` reads the answer from the last state, with the
    last norm held). ``vote`` is what single tokens carry, the row ``w A`` times their states: the
    relevance of ``ll.relevance(rule="cp")``, taken from there. ``bias_share`` says how much is due
    to biases, of the last state by lengths, of the answer, and of random answers as a control.
    Where a model has no biases (Llama), it is 0.

    ``answer_change`` and ``state_change`` are what one unit of a direction at the token does, by
    size: of the token's own state, and of random directions (the mean of their sizes), each in the
    held model and in the model itself. They differ by all that reacts. A push along a state's own
    direction is the clearest case: the next norm takes it back, the held one does not.

    ``singular_value``: how much the strongest directions (over all tokens at once) grow on their
    way to the last state; the untrained model's are the control.

    Affine maps of a held network, their bias, columns and singular vectors are the source's, for
    convolutional networks. What is held in a transformer is that of conservative propagation; the
    free model beside the held one and the controls are ours.

    Raises
    ------
    InputError
        An option does not fit.
    ModelError
        A part of the model cannot be held (experts, state spaces), or it has no head.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.linear_interpreter(model, "cat dog owl cat", untrained=False)
    >>> found.checks.ok
    True
    """
    _check_options(model, draws, singular, rounds)
    require_flow(model)
    texts = len(tokens.ids)
    answers, others = (one_each(v, texts, n) for v, n in ((answer, "answer"), (wrong, "wrong")))
    chosen = model.layers(layers)
    depths, cells = Depths(model, chosen), Cells(model, tokens)
    beside = untrained_model(model, seed) if singular and untrained else None
    words = {
        "push": PUSHES if draws else PUSHES[:2],
        "share": SHARES if draws else SHARES[:2],
        "part": PARTS,
        "rank": [f"{i}{kind}" for kind in _kinds(beside) for i in range(1, singular + 1)],
    }
    named = {axis: np.array(labels) for axis, labels in words.items() if labels}
    job.declare(
        {
            "point": len(depths.labels),
            "entry": model.d_model,
            **{axis: len(labels) for axis, labels in named.items()},
            **cells.sizes(),
        },
        {
            "point": (("point",), np.array(depths.labels)),
            "point_layer": (("point",), np.array([n - 1 for n in depths.begun], np.int32)),
            **{axis: ((axis,), labels) for axis, labels in named.items()},
            **cells.coords(),
        },
    )
    run = LinearText(job, model, beside, depths, (draws, singular, rounds, seed))
    for row in range(texts):
        with torch.no_grad():
            run.text(row_of(tokens, row), row, (answers[row], others[row]), position)
        job.progress(row + 1, texts, "texts")
    _check(job, model, run, singular)


def _check_options(model: LensModel, draws: int, singular: int, rounds: int) -> None:
    most = max(model.d_vocab // 2 - 1, 0)
    if not 0 <= whole(draws, "draws") <= most:
        raise InputError(f"draws is {draws}; expected from 0 to {most}.")
    if not 0 <= whole(singular, "singular") <= model.d_model:
        raise InputError(
            f"singular is {singular}; expected from 0 to {model.d_model}, the width of a state."
        )
    if whole(rounds, "rounds") < 2:
        raise InputError(f"rounds is {rounds}; expected 2 or more, to see what still grows.")


def _kinds(beside: LensModel | None) -> list[str]:
    """What is said behind the rank of a singular value: nothing of the model itself."""
    return ["", *([", untrained"] if beside is not None else [])]


def _check(job: Job, model: LensModel, run: LinearText, singular: int) -> None:
    """Say what was compared."""
    limit = tolerance(model)
    off = run.off
    what = "the held model and the model itself at the text's own states, of the largest"
    job.check("same numbers", off.same, limit, what)
    what = "held at the sum of two states less held at each, and the constant, of the largest"
    job.check("affine", off.affine, limit, what)
    what = "A x run forward along the answer, and the tokens' relevance by rule 'cp', of the sum"
    job.check("votes are relevance", off.votes, limit, what)
    if singular:
        what = "<u, A v> by a pass and <A^T u, v> by a way back, of the largest"
        job.check("transpose", off.transpose, limit, what)
        what = "growth of a singular value in the last round"
        job.check("singular values settled", off.growth, SETTLED, what)
    if run.capped:
        job.remark("The model soft-caps its logits: the logit before the cap is taken.")
    if not run.biased:
        job.remark("Nothing in this model adds a constant: it is a matrix alone.")
    job.note(
        passes=run.passes,
        metric_words=run.words,
        method="norms, patterns and gates held, other activations by their slope from zero",
    )
