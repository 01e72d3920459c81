"""What each layer would have written, token by token, while the model writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.lenses.exits import require_min_layers, require_rule
from layerlens.analyses.lenses.logit_lens import DEFAULT_LIMIT, shown_edits
from layerlens.analyses.lenses.points import lens_points
from layerlens.analyses.lenses.readers import LOGIT, Lens, reader_of, told_reader
from layerlens.analyses.lenses.variables import NO_LAYER
from layerlens.analyses.lenses.write_calls import Wanted
from layerlens.analyses.lenses.writing import Shown, Writing
from layerlens.errors import InputError
from layerlens.run.edits import Edit
from layerlens.run.head_rows import row_bytes
from layerlens.run.resolve import count_runs

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("point", "step")
_FIRST, _SETTLE, _EXIT = (
    "first {} whose top token is the final one",
    "{} from which the top token stays the final one",
    "{} where the model could have stopped, by the rule",
)
VARIABLES = {
    "token_id": Variable((*_CELL, "k"), "int32", "1", "predicted token, best first", is_token=True),
    "probability": Variable((*_CELL, "k"), "float32", "1", "probability of the predicted token"),
    "written_probability": Variable(_CELL, "float32", "1", "probability of the written token"),
    "rank": Variable(_CELL, "int32", "1", "rank of the written token, 1 = best"),
    "entropy": Variable(_CELL, "float32", "nats", "entropy of the prediction"),
    "margin": Variable(_CELL, "float32", "1", "probability of the top token minus the second's"),
    "kl_to_final": Variable(_CELL, "float32", "nats", "KL divergence, final from this point"),
    "state_cosine": Variable(
        _CELL, "float32", "1", "cosine of the state with the one its block was given", signed=True
    ),
    "written_id": Variable(("step",), "int32", "1", "token that was written", is_token=True),
    **{
        f"{name}_{what}": Variable(
            ("step",),
            "int32",
            "layer" if what == "layer" else "1",
            words.format("layer" if what == "layer" else "point (index)"),
            NO_LAYER if what == "layer" else -1,
        )
        for name, words in (("first", _FIRST), ("settle", _SETTLE), ("exit", _EXIT))
        for what in ("layer", "point")
    },
}

EVERY = 4
"""Blocks from one point to the next unless points are named: the head costs more than a block."""


def written_points(
    model: LensModel, points: str | Sequence[str] | None, reader: Reader
) -> list[Point]:
    """The points that were asked for; by default every fourth block and the last, or all of few.

    A lens that was fitted is by default asked for the points that it has, and the last.

    Raises
    ------
    InputError
        There is no such point, or the lens has no map for it.
    """
    last = model.n_layers - 1
    if points is None and reader.labels is not None:
        points = [*reader.labels, f"{last}_post"]
    if points is not None:
        found = lens_points(model, points)
        reader.require(found)
        return found
    step = EVERY if model.n_layers > 2 * EVERY else 1
    chosen = sorted({*range(0, model.n_layers, step), last})
    return lens_points(model, [f"{layer}_post" for layer in chosen])


def buffers_of(model: LensModel, points: int, texts: int, new: int, top_k: int, limit: int) -> int:
    """Bytes for logits: of one token's rows, within what the limit leaves beside the answer."""
    matrix = model.head_matrix()
    a_row = row_bytes(model.d_vocab, model.dtype if matrix is None else matrix.weight.dtype)
    answer = (points + 1) * texts * new * (8 * top_k + 28)
    return min(limit - answer, max(8, (points + 1) * texts) * a_row)


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    max_new_tokens: int,
    lens: Lens,
    points: str | Sequence[str] | None,
    top_k: int,
    edits: Edit | Iterable[Edit],
    verify: int,
    memory_limit: int,
    **_: object,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    chosen = written_points(model, points, reader_of(model, lens))
    texts, length = tokens.ids.shape
    new = Wanted(max_new_tokens).new
    buffers = buffers_of(model, len(chosen), texts, new, top_k, memory_limit)
    rows = ((len(chosen) + 1) * (new + min(verify, new)) + new) * texts
    passes = 1 + bool(verify) + count_runs(model, tokens, edits)
    answer = (len(chosen) + 1) * texts * new * (8 * top_k + 28)
    return Work(passes, rows, answer + buffers, texts * (length + new - 1), steps=new)


@analysis(
    name="generation_lens",
    question="From which layer on is each token decided that the model writes?",
    source="nostalgebraist (2020), interpreting GPT: the logit lens, LessWrong, on the cached "
    "states of generation; exits: Schuster et al. (2022), Confident Adaptive Language "
    "Modeling, arXiv 2207.07061, Zhou et al. (2020), BERT Loses Patience, arXiv 2006.04152",
    cost="1 pass of the text and 1 of each new token, with one product of every point with the "
    "head; 1 pass more to verify",
    view="generation",
    lead="Each column is a token that the model wrote, each row a depth: the word in a cell is "
    "what it would have written had it stopped there.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal"),
)
def generation_lens(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    max_new_tokens: int = 20,
    lens: Lens = LOGIT,
    points: str | Sequence[str] | None = None,
    top_k: int = 5,
    edits: Edit | Iterable[Edit] = (),
    temperature: float = 0.0,
    seed: int = 0,
    begin: str | int | Sequence[str | int] = (),
    stop: str | Sequence[str] = (),
    rule: str = "margin",
    threshold: float | None = None,
    min_layers: int = 0,
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Write on with ``hf.generate``, and read every point where the newest token is written from.

    A token at step i is written from the states at the position before it, so these are read: at
    the last position of the text for step 0, at the newest one afterwards. They are the states of
    the running, cached pass; of each site only the newest position is kept, so a long text costs
    no more than its own pass.

    Parameters
    ----------
    max_new_tokens
        How many tokens to write at most; fewer where the model ends its text.
    lens
        How states are read: ``"logit"``, what ``ll.fit_lens`` returns, or the path of its file.
    points
        Kinds of points or labels, as in ``ll.logit_lens``; None: after every fourth block and the
        last, in a model of at most eight blocks after each, and of a fitted lens those it has.
    top_k
        How many predictions to keep at each point.
    edits
        What to change while the model runs (``ll.edit``): at positions of the text, at ``steps``
        of what is written, or always.
    temperature
        0: the best token each time; else tokens are drawn from the softmax of the logits over it.
        The probabilities in the answer are those at temperature 1.
    seed
        Of the draws.
    begin
        Tokens, as strings or ids, that are written first, whatever the model would say; then it
        goes on by itself. They count among ``max_new_tokens``.
    stop
        Texts behind which writing ends.
    rule
        When a token counts as ready: ``margin`` (top probability minus the second), ``confidence``
        (top probability), ``entropy`` (1 - entropy / ln vocabulary), ``state`` (cosine with the
        state that the block was given), ``patience`` (points in a row with the same top token).
    threshold
        What the rule's score has to exceed; None: 0.5, 0.75, 0.8, 0.98, 2.
    min_layers
        Blocks that always run, whatever the rule says.
    verify
        How many tokens are read again in one pass of the whole text without a cache, and
        compared; 0 for none.
    memory_limit

    Notes
    -----
    ``first_layer``, ``settle_layer`` are those of the final row's top token, which is the written
    one unless it was drawn or stood in ``begin``; ``rank`` and ``written_probability`` are those
    of the written token. The exits only relabel: every layer has run. Penalties of a checkpoint's
    own settings and beams are left aside. Texts that end early have -1 and NaN behind their end.

    Raises
    ------
    InputError
        An option does not fit, or the text and what is to be written are longer than the context.
    MemoryLimitError
        The limit is too small even for one token's rows.
    LayerLensError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> lens = ll.generation_lens(model, "cat dog owl cat", max_new_tokens=3)
    >>> lens.data.token.values.tolist()
    ['dog', 'owl', 'cat']
    >>> lens.data.settle_layer.values.tolist()
    [1, 1, 1]
    """
    if not 1 <= top_k <= model.d_vocab:
        raise InputError(f"top_k is {top_k}; expected 1 to {model.d_vocab}.")
    reader = told_reader(job, model, lens)
    chosen = written_points(model, points, reader)
    wanted = Wanted(
        max_new_tokens,
        float(temperature),
        seed,
        tuple(model.token_id(token) for token in _listed(begin)),
        (stop,) if isinstance(stop, str) and stop else tuple(stop),
    )
    require_min_layers(model, min_layers)
    found = shown_edits(job, edits)
    shown = Shown(chosen, top_k, rule, require_rule(rule, threshold), min_layers)
    buffers = buffers_of(model, len(chosen), len(tokens.ids), wanted.new, top_k, memory_limit)
    Writing(job, model, tokens, reader, shown, wanted, buffers).run(found, verify)


def _listed(tokens: str | int | Sequence[str | int]) -> list[str | int]:
    """One token or several, as Python's own strings and numbers."""
    given = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    return [given] if isinstance(given, str | int) else list(given)
