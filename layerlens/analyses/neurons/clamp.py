"""Clamping: a neuron held at one value after the other, and what that does to the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Dose, Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.neurons.clamp_cell import open_clamped
from layerlens.analyses.neurons.clamped_text import NEXT, ClampedText
from layerlens.analyses.neurons.places import neuron_places, usual_values
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import whole
from layerlens.run.many_edits import DEFAULT_LIMIT

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("neuron?", "value")
_OTHERS = "random neurons of the layer, moved by as much"


def _with_control(name: str, units: str, words: str, *, signed: bool) -> dict[str, Variable]:
    """A variable, and the same with random neurons, which has an interval over these."""
    control = Variable(_CELL, "float32", units, _OTHERS, signed=signed)
    return {
        name: Variable(_CELL, "float32", units, words, signed=signed),
        **with_interval(f"random_{name}", control, "neurons"),
    }


VARIABLES = {
    **_with_control("change", "1", "change of the metric", signed=True),
    **_with_control("kl", "nats", "KL divergence of the next token, from unclamped", signed=False),
    "metric": Variable(_CELL, "float32", "1", "metric of the clamped run", signed=True),
    "next_probability": Variable(
        ("neuron?", "next", "value"), "float32", "1", "probability of the next token"
    ),
    "activation": Variable(
        ("neuron?", "position"), "float32", "activation", "the neuron as it is", signed=True
    ),
}


def count_work(
    model: LensModel, tokens: Tokens, *, neuron: Any, values: Any, draws: int, verify: int, **_: Any
) -> Work:
    """Count passes and bytes of one call; runs no text."""
    places = neuron_places(model, neuron)
    doses = 9 if values is None else len(_numbers(values))
    cells = doses * (1 + draws) + 1
    replayed = sum(1 - layer / model.n_layers for layer, _ in places) * cells
    texts, length = tokens.ids.shape
    size = 4 * length * model.d_model * model.n_layers * 3 + 8 * 64 * model.d_vocab
    passes = texts * (1 + replayed + verify * len(places)) + (values is None)
    return Work(passes, 2 * texts * cells * len(places), size)


@analysis(
    name="clamp",
    question="What does the model answer when a neuron is held at a value?",
    source="Davies (2025), Decoding Specialised Feature Neurons in LLMs with the Final Projection "
    "Layer, arXiv 2501.02688",
    cost="1 pass, and a replay for each neuron and value, and as many for each random neuron",
    view="curves",
    lead="The slider holds the neuron at a value: a curve that leaves the band of random neurons, "
    "moved by as much, is owed to what this one writes.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    positional=("neuron", "values"),
    needs=("head",),
    doses=[Dose("values", (), "value of the neuron", dim="value")],
    opens=open_clamped,
)
def clamp(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    neuron: Any = (0, 0),
    values: Sequence[float] | None = None,
    positions: Any = None,
    metric: str | MetricFunction = "logit_diff",
    answer: str | int | list[str | int] | None = None,
    wrong: str | int | list[str | int] | None = None,
    draws: int = 8,
    seed: int = 0,
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Hold a neuron at each of several values while a text runs.

    A neuron is an entry of what the MLP's last projection is given: after the activation
    function and, in gated MLPs, times the other branch. ``ll.edit("mlp_post.7", "set", 2.5,
    neuron=123, always=True)`` does the same in ``ll.run`` and at every token that
    ``model.generate`` writes.

    Parameters
    ----------
    neuron
        ``(layer, number)``, or a list of these, which are clamped one at a time.
    values
        What it is held at. None: 0, and up to four times and down to minus twice the largest
        magnitude that the neurons have in the texts, their first tokens aside.
    positions
        Where it is held: an index, a slice, a list or the text of a span; None for everywhere.
    metric
    answer
    wrong
    draws
        How many other neurons of the same layer are moved for comparison; 0 for none.
    seed
        Of their draw.
    verify
    memory_limit

    Notes
    -----
    ``change`` is the metric of the clamped run less that of the run as it is. Clamped to ``c``, a
    neuron moves what the MLP writes at a token by ``(c - a) * w``, with its activation ``a`` there
    and its column ``w`` of the last projection. A random neuron of the layer is moved, from its
    own activation, by as much in norm and in the same direction: ``random_change`` is the mean
    over ``draws`` of them, between ``random_change_low`` and ``random_change_high`` lie 95 %.

    ``next_probability`` follows the tokens that are likeliest at any of the values, over all
    neurons. With a single neuron there is no axis ``neuron``.

    Raises
    ------
    InputError
        A neuron or an option does not fit, or (with ``draws``) the last projection is quantised.
    SiteError
        The layer has no neurons that could be watched, such as one made of experts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> held = ll.clamp(model, "cat dog owl cat", (1, 7), [-1, 0, 1, 2], answer="dog")
    >>> held.data.change.dims, held.data.change.shape
    (('value',), (4,))
    """
    places = neuron_places(model, neuron)
    draws = whole(draws, "draws")
    if draws < 0:
        raise InputError(f"draws is {draws}; expected 0 or more.")
    texts = [row_of(tokens, row) for row in range(len(tokens.ids))]
    doses = usual_values(job, model, tokens, places) if values is None else _numbers(values)
    _declare(job, places, doses, tokens, draws, min(NEXT, model.d_vocab))
    asked = [one_each(given, len(texts), name)
             for given, name in ((answer, "answer"), (wrong, "wrong"))]  # fmt: skip
    passes = float(values is None)
    following = []
    for row, text in enumerate(texts):
        lead = {"batch": row} if job.batched else {}
        work = ClampedText(job, model, text, places, doses, lead, (row, len(texts)))
        work.ask(metric, asked[0][row], asked[1][row])
        work.run(model.positions(text, positions), draws, seed, verify, memory_limit)
        passes += work.passes
        following.append(work.following)
    axes = ("batch", "next") if job.batched else ("next",)
    job.label({"token": (axes, np.array(following if job.batched else following[0], dtype=str))})
    job.note(passes=passes)


def _numbers(values: Any) -> list[float]:
    try:
        found = [float(value) for value in np.atleast_1d(np.asarray(values, dtype=float))]
    except (TypeError, ValueError):
        found = []
    if not found or not np.isfinite(found).all() or len(set(found)) < len(found):
        raise InputError(f"values is {values!r}; expected finite numbers, each once.")
    return found


def _declare(
    job: Job,
    places: list[tuple[int, int]],
    doses: list[float],
    tokens: Tokens,
    draws: int,
    following: int,
) -> None:
    sizes = {"value": len(doses), "next": following, "position": tokens.ids.shape[1]}
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "value": (("value",), np.array(doses)),
        "next": (("next",), np.arange(1, following + 1, dtype=np.int32)),
        "position": (("position",), np.arange(sizes["position"], dtype=np.int32)),
    }
    if len(places) > 1:
        sizes["neuron"] = len(places)
        coords["neuron"] = (("neuron",), np.array([f"{layer}.{i}" for layer, i in places]))
    if job.batched:
        sizes["batch"] = len(tokens.ids)
    filled = [name for name in VARIABLES if draws or not name.startswith("random_")]
    job.declare(sizes, coords, filled)
