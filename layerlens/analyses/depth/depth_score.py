"""Down to which depth layers matter for each text, and whether that goes with its difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.output_distance import distances
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.depth.difficulty import Difficulty
from layerlens.analyses.depth.layer_subsets import CleanRun, Sweep, naive
from layerlens.analyses.depth.skip_text import AGREEMENT, CHUNK_TOKENS, HALF_AGREEMENT
from layerlens.analyses.depth.windows import REDUCTIONS, summed, windows
from layerlens.analyses.texts.text_names import text_names
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError, ModelError
from layerlens.model.abilities import ABILITIES
from layerlens.model.feed import ANY_KIND

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.analyses.depth.layer_subsets import SkipRow, Window
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_SCORE = "mean layer, weighted by what later layers lose without it"
VARIABLES = {
    **with_interval("group_depth", Variable(("group",), "float64", "layer", _SCORE)),
    "depth": Variable(("text",), "float64", "layer", _SCORE),
    "layer_effect": Variable(
        ("text", "layer"), "float64", "1", "what later layers, or the output, lose without this one"
    ),
    **with_interval(
        "correlation", Variable((), "float64", "1", "correlation of depth with difficulty")
    ),
    "correlation_chance": Variable(
        (), "float64", "1", "size that 95 % of correlations with shuffled labels stay below"
    ),
    "length_correlation": Variable(
        (), "float64", "1", "correlation of depth with the number of tokens"
    ),
    "slope": Variable((), "float64", "layer", "change of depth for each unit of difficulty"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    by: str,
    effect: str,
    reduce: str,
    cuts: int | Sequence[int],
    keep_first: bool,
    seed: int,
    verify: int,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    runs = [len(windows(length, effect, cuts, keep_first, seed)) for length in tokens.lengths]
    share = 3 + sum(runs) / len(runs) * ((model.n_layers + 1) / 2 + 1)
    state = max(tokens.lengths) * model.d_model * model.dtype.itemsize
    rows = max(1, CHUNK_TOKENS // max(tokens.lengths)) + 1
    heads = sum(tokens.lengths) * (model.n_layers + 1) if by == "output" else 0
    return Work(share + verify / len(runs), heads, (model.n_layers + 1 + 4 * rows) * state)


@analysis(
    name="depth_score",
    question="Do harder texts use deeper layers?",
    source="Csordás, Manning and Potts (2025), Do Language Models Use Their Depth Efficiently?, "
    "arXiv 2505.13898",
    cost="3 passes a text, and half a pass for each layer left out",
    view="panels",
    lead="How deep, in layers, those lie that later ones build on, by how hard the texts are; a "
    "line that stays level says that harder texts use no more depth.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    effects={"cuts": among("effect", "future")},
)
def depth_score(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    by: str = "layers",
    effect: str = "all",
    reduce: str = "max",
    cuts: int | Sequence[int] = 4,
    keep_first: bool = True,
    seed: int = 0,
    verify: int = 1,
) -> None:
    """Weigh the layers of each text by what later ones lose without them, and compare texts.

    With ``e_l`` the mean over later layers of the ``effect`` of ``ll.skip_layers`` when layer
    ``l`` is left out (or, with ``by="output"``, its ``output_effect``), ``depth`` is ``sum(l *
    e_l) / sum(e_l)``, in layers: 0 where all that matters happens in the first, high where late
    layers still change what comes after them.

    Difficulty is what the texts are labelled with, ``ll.texts(texts, label=[...])``: a number
    (hops, digits, steps), or a word for groups that have no order. Without labels there is one
    depth for each text and nothing else.

    Parameters
    ----------
    by
        ``layers``: what later layers lose, as published; ``output``: how far the probabilities
        of the next token move, which the last layer does, too.
    effect
        ``all``: each layer is left out, and the others measured, at every token; ``future``:
        left out before a cut and measured from it on.
    reduce
        What is made of the changes at all tokens: ``max`` as published, ``mean`` or ``p95``.
    cuts
        How many cuts of a text to draw, or the cuts.
    keep_first
        Leave nothing out at the first token, and do not measure there.
    seed
        Of cuts, resampled texts and shuffled labels.
    verify
        How many layers are left out of the first text again by passes of the whole model.

    Notes
    -----
    The last layer has no later one, so by layers it is no part of the mean: depth is at most
    ``layers - 2``, by the output ``layers - 1``. ``correlation`` is Pearson's r, for words the
    correlation ratio (root of the share of the variance between groups, 0 to 1), with an interval
    over texts; ``correlation_chance`` is its control with shuffled labels, ``length_correlation``
    says how far mere length goes with depth: where it is as large, difficulty need not be the
    reason.

    Raises
    ------
    InputError
        An option does not fit, the model has one layer only, a text is too short, or some texts
        have no label where others have one.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = ll.texts(["cat dog owl cat", "ant ape bat bear ant"], label=[1, 2])
    >>> found = ll.depth_score(model, texts, by="output").data
    >>> bool(((found.depth >= 0) & (found.depth <= 1)).all())
    True
    """
    if by not in ("layers", "output"):
        raise InputError(f"by is {by!r}; expected layers or output.")
    if by == "output" and (lack := ABILITIES["head"](model)):
        raise ModelError(f"by='output' cannot be asked of {model.name}, which {lack}.")
    if effect not in ("all", "future"):
        raise InputError(f"effect is {effect!r}; expected all or future.")
    if reduce not in REDUCTIONS:
        raise InputError(f"reduce is {reduce!r}; expected one of {', '.join(REDUCTIONS)}.")
    if model.n_layers < 2:
        raise InputError(f"{model.name} has one layer, so no layer has a later one.")
    labels = job.labels(needed=False)
    if labels and len(labels) != len(tokens.ids):
        raise InputError(
            f"There are {len(labels)} labels for {len(tokens.ids)} rows: leave empty texts out, "
            "and do not cut or pack them."
        )
    difficulty = Difficulty(labels) if labels else None
    texts = [row_of(tokens, row) for row in range(len(tokens.ids))]
    cut = [
        windows(text.ids.shape[1], effect, cuts, keep_first, seed + number)
        for number, text in enumerate(texts)
    ]
    _declare(job, model, texts, difficulty)
    work = _Depths(job, model, by, reduce)
    depths = np.array([work.text(*each, verify) for each in zip(texts, cut, strict=True)])
    work.finish(len(texts))
    if difficulty is not None:
        _compare(job, difficulty, depths, np.array(tokens.lengths, dtype=np.float64), seed)


def depth_of(effects: np.ndarray) -> np.ndarray:
    """Mean layer ``[...]``, weighted by effects ``[..., layer]``; NaN where all are zero.

    Examples
    --------
    >>> depth_of(np.array([1.0, 1.0, 1.0, 1.0])).item()
    1.5
    """
    layers = np.arange(effects.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((effects * layers).sum(-1) / effects.sum(-1))


def _declare(
    job: Job, model: LensModel, texts: Sequence[Tokens], difficulty: Difficulty | None
) -> None:
    sizes = {"text": len(texts), "layer": model.n_layers}
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "text": (("text",), text_names(texts)),
        "layer": (("layer",), np.arange(model.n_layers, dtype=np.int32)),
        "length": (("text",), np.array([t.ids.shape[1] for t in texts], dtype=np.int32)),
    }
    if difficulty is None:
        job.declare(sizes, coords, only=["depth", "layer_effect"])
        return
    coords["group"] = (("group",), np.array(difficulty.groups))
    coords["difficulty"] = (("text",), np.array(difficulty.groups)[difficulty.place])
    only = [name for name in VARIABLES if difficulty.ordered or name != "slope"]
    job.declare({**sizes, "group": len(difficulty.groups)}, coords, only=only)
    kind = "Pearson's r" if difficulty.ordered else "correlation ratio"
    job.note(correlation_kind=kind)


def _compare(
    job: Job, difficulty: Difficulty, depths: np.ndarray, lengths: np.ndarray, seed: int
) -> None:
    """Hand over how depth goes with difficulty, and with length."""
    mean, low, high = difficulty.means(depths)
    found = {"group_depth": mean, "group_depth_low": low, "group_depth_high": high}
    found |= difficulty.against(depths, seed)
    by_length = Difficulty(lengths.tolist()).correlation(depths, np.ones((1, len(depths))))
    found["length_correlation"] = by_length[0]
    if difficulty.ordered:
        found["slope"] = np.array(difficulty.slope(depths))
    job.emit({}, found)
    if len(depths) < 8:
        job.remark(
            f"There are {len(depths)} texts: a correlation of so few says little, see its interval."
        )


class _Depths:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, by: str, reduce: str) -> None:
        self.job, self.model, self.by, self.reduce = job, model, by, reduce
        self.done = 0
        self.passes = self.worst = self.before = 0.0
        self.verified = 0

    def text(self, text: Tokens, cuts: list[Window], verify: int) -> float:
        """The depth of one text."""
        clean = CleanRun(self.model, text, self.job.tick)
        layers = self.model.n_layers
        changes: list[list[Tensor]] = [[] for _ in range(layers)]
        for window in cuts:
            for row in self._rows(clean, window):
                changes[row.skipped[0]].append(self._change(clean, window, row))
                if not self.done and self.verified < verify:
                    self._verify(text, clean, window, row)
        last = layers if self.by == "output" else layers - 1
        effects = np.full(layers, np.nan)
        for layer in range(last):
            found = summed(changes[layer], self.reduce)
            later = found if self.by == "output" else found[layer + 1 :]
            effects[layer] = float(later.mean())
        depth = depth_of(effects[:last])
        self.job.emit({"text": self.done}, {"depth": depth, "layer_effect": effects})
        self.done += 1
        self.passes += 3
        self.job.progress(self.done, self.texts, "texts")
        return float(depth)

    def _change(self, clean: CleanRun, window: Window, row: SkipRow) -> Tensor:
        """What a layer's absence changes, ``[layer or 1, position]``: layers, or the output."""
        if self.by == "layers":
            return row.change
        at = list(window.measured)
        return distances(self.model, clean.final, row.final[None], at, self.job.tick)

    @property
    def texts(self) -> int:
        """How many there are."""
        assert self.job.parts is not None  # it was declared before
        return self.job.parts.sizes["text"]

    def _rows(self, clean: CleanRun, window: Window) -> list[SkipRow]:
        """A run without each layer."""
        found, layers = [], self.model.n_layers
        step = max(1, CHUNK_TOKENS // clean.states[0].shape[1])
        sweep = Sweep(self.model, clean, window, "block", "each")
        for start in range(0, layers, step):
            *rows, _ = sweep.run(range(start, min(start + step, layers)), self.job.tick)
            found += rows
        self.passes += sweep.blocks_run / layers
        for row in found:
            early = row.change[: row.skipped[0]]
            self.before = max(self.before, float(early.max()) if early.numel() else 0.0)
        return found

    def _verify(self, text: Tokens, clean: CleanRun, window: Window, row: SkipRow) -> None:
        """The same by a pass of the whole model with hooks."""
        plain = naive(self.model, text, clean, window, "block", row.skipped)
        self.worst = max(self.worst, float((plain.change - row.change).abs().max()))
        self.verified += 1
        self.passes += 1

    def finish(self, texts: int) -> None:
        """Say what it took, and what was verified."""
        self.job.note(
            passes=self.passes / texts,
            method="restart from the stored state of the layer that is left out",
        )
        what = "largest change of a layer before the one that is left out"
        self.job.check("nothing before", self.before, 0, what)
        if self.verified:
            limit = AGREEMENT.get(self.model.dtype, HALF_AGREEMENT)
            what = f"relative changes of {self.verified} rows against passes of the whole model"
            self.job.check("naive agreement", self.worst, limit, what)
