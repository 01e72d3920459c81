"""What later layers, and the output, lose when layers are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.depth.layer_subsets import combinations
from layerlens.analyses.depth.skip_text import SkipRun, skip_texts
from layerlens.analyses.depth.skipped_cell import open_skipped
from layerlens.analyses.depth.windows import EFFECTS, REDUCTIONS, windows
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.run.skip import require_part

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 400_000_000
MODES = ("each", "pairs", "ranges")

_ROW = ("skipped",)
_BOTH = ("layer", "layer_other")
VARIABLES = {
    "joint_kl": Variable(_BOTH, "float32", "nats", "KL divergence of the prediction, both skipped"),
    "joint_output_effect": Variable(
        _BOTH, "float32", "1", "distance of the probabilities, both skipped"
    ),
    "joint_answer_probability": Variable(
        _BOTH, "float32", "1", "probability of the answer, both skipped"
    ),
    "effect": Variable(
        ("skipped", "layer"), "float32", "1", "relative change of what a layer adds"
    ),
    "output_effect": Variable(_ROW, "float32", "1", "distance of the probabilities"),
    "kl": Variable(_ROW, "float32", "nats", "KL divergence of the prediction at the end"),
    "answer_probability": Variable(_ROW, "float32", "1", "probability of the answer"),
    "answer_on_top": Variable(_ROW, "float32", "1", "share of texts whose answer stays on top"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    part: str,
    mode: str,
    effect: str,
    reduce: str,
    answer: Any,
    cuts: int | Sequence[int],
    keep_first: bool,
    seed: int,
    verify: int,
    memory_limit: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    layers = model.n_layers
    rows = combinations(layers, mode, range(layers))
    # Where a row shares its beginning with a shorter one, it begins at its last skipped layer.
    shared = sum(layers - row[-1] - (part == "block") for row in rows) / layers
    per_text, measured, state = 0, 0, 0
    for length in tokens.lengths:
        found = windows(length, effect, cuts, keep_first, seed)
        per_text += len(found)
        measured += sum(len(window.measured) + 1 for window in found)
        state = max(state, length * model.d_model * model.dtype.itemsize)
    passes = 3 * len(tokens.lengths) + per_text * (shared + 1) + verify
    family = 1 if mode == "each" else layers
    return Work(passes, len(rows) * measured, (layers + 1 + 4 * family) * state)


@analysis(
    name="skip_layers",
    question="Which layers do later layers, and the output, need?",
    source="Csordás, Manning and Potts (2025), Do Language Models Use Their Depth Efficiently?, "
    "arXiv 2505.13898",
    cost="3 passes a text, and half a pass for each layer left out",
    view="grid",
    lead="Each row is a layer left out, each column a later one: strongly coloured cells change "
    "much of what they add, so they build on what is gone.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    effects={"cuts": among("effect", "future")},
    opens=open_skipped,
)
def skip_layers(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    part: str = "block",
    mode: str = "each",
    effect: str = "all",
    reduce: str = "max",
    answer: str | int | Sequence[str | int] | None = None,
    cuts: int | Sequence[int] = 4,
    keep_first: bool = True,
    seed: int = 0,
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Leave out layers and see what changes in what later layers add, and in the output.

    With ``c`` what a layer adds to the residual stream at a token, undisturbed, and ``c'`` with
    layers left out, ``effect`` is ``|c - c'| / |c|``, and ``output_effect`` the Euclidean
    distance of the probabilities of all tokens (at most 1.41); both are summed up over
    positions, cuts and texts as ``reduce`` says.

    Parameters
    ----------
    part
        ``block`` leaves out the layer, ``attn`` and ``mlp`` what that sublayer adds.
    mode
        ``each`` layer alone, all ``pairs``, or all ``ranges`` of neighbours (``layer`` to
        ``layer_other``).
    effect
        ``all``: at every token, measured everywhere. ``future``: only before a cut, measured
        only from the cut on, which isolates what attention carries to later tokens. ``direct``:
        each later layer, and the head, is given the undisturbed state less what the layer has
        added, so that nothing goes through the layers between; for ``part="block"`` and
        ``mode="each"``. ``all`` less ``direct`` is what is carried on by other layers.
    reduce
        ``max`` as published, ``mean`` or ``p95`` (the 95th percentile) of all tokens. A maximum
        grows with the number of tokens: keep them fixed when you compare.
    answer
        Token whose probability is followed (one, or one a text); None: what each text's
        undisturbed run predicts.
    cuts
        How many cuts of a text to draw, or the cuts. They are multiples of 8; a text of less
        than 13 tokens has none of these, and any position serves.
    keep_first
        Leave nothing out at the first token, which holds what attention leans on in many
        models, and do not measure there.
    seed
        Of the cuts and of the rows that are verified.
    verify
        How many rows to compare with a pass of the whole model with hooks.
    memory_limit

    Notes
    -----
    Several texts are pooled into one answer. ``joint_*`` exist for pairs and ranges. ``kl`` is
    that of the undisturbed prediction at the last position (a masked model's: at the mask token)
    from the disturbed one; it, the probability and ``answer_on_top`` are means over texts and
    cuts.

    Raises
    ------
    InputError
        An option does not fit, or a text is too short.
    SiteError
        A layer has no such part.
    MemoryLimitError
        The limit is too small for one text.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> lost = ll.skip_layers(model, "cat dog owl cat")
    >>> lost.data.kl.dims
    ('skipped',)
    """
    _require("mode", mode, MODES)
    _require("effect", effect, EFFECTS)
    _require("reduce", reduce, REDUCTIONS)
    require_part(model, part)
    if effect == "direct" and (part, mode) != ("block", "each"):
        raise InputError(
            f"effect='direct' is for part='block' and mode='each', not {part!r} and {mode!r}."
        )
    texts = skip_texts(model, tokens, answer, effect, cuts, keep_first, seed)
    job.batched = False  # several texts are pooled
    direct = effect == "direct"
    SkipRun(job, model, texts, part, mode, reduce, memory_limit, direct=direct).run(verify, seed)


def _require(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(known)}.")
