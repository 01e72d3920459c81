"""Token attribution: how much of each token is in a position, layer after layer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.attention.attribution_cell import open_attribution
from layerlens.analyses.attention.handed_over import has_vectors, require_vectors
from layerlens.analyses.attention.mixing import MIXINGS
from layerlens.analyses.attention.through_layers import RESIDUAL, Step, ThroughLayers
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import Where
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError, ModelError
from layerlens.model.feed import ANY_KIND

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

METHODS = ("rollout", "flow", *MIXINGS)

LONGEST_FLOW = 64
"""Tokens that the flow is computed for at most: it is one maximum flow a token and layer."""

FLOW_OPERATIONS, EDGE_OPERATIONS = 3e7, 4e3
"""What one maximum flow, and each edge in it, takes as long as (measured)."""

ENTRY_OPERATIONS = 400
"""What each number of a vector that is handed over takes as long as (measured): it is made from
all heads, and read and written again by what is bound by memory, not by arithmetic."""

ROUNDS = 3
"""Times that all vectors of a block are made: to be compared with the model, and for both mixes."""

_CELL = ("layer", "position")
_CONTROL = ", if each head looked at all that it can see alike"
VARIABLES = {
    "attribution": Variable(
        _CELL, "float64", "1", "share of the token in the target after the layer"
    ),
    "attribution_chance": Variable(
        _CELL, "float64", "1", f"share of the token in the target after the layer{_CONTROL}"
    ),
    "layer_attribution": Variable(
        _CELL, "float64", "1", "share of the position in what the layer alone gives the target"
    ),
    "beyond_chance": Variable(
        ("layer",), "float64", "1", "part of the shares that lies elsewhere than in the control"
    ),
    "total": Variable(("layer",), "float64", "1", "what the shares were divided by"),
    "matrix": Variable(
        ("query", "key"), "float64", "1", "share of each token in each position after all layers"
    ),
}


def count_work(
    model: LensModel, tokens: Tokens, *, method: str, target: Any, residual: float | None
) -> Work:
    """Count passes, bytes and operations of one call; runs nothing."""
    texts, length = tokens.ids.shape
    heads, square = model.n_heads, length * length
    kept = 8 * square * (heads + 8)
    operations = 2.0 * square * length * model.n_layers
    if method in MIXINGS:
        entries = float(ROUNDS * square * model.d_model)
        writes = 2.0 * length * model.d_model * model.d_model
        operations += model.n_layers * (writes + entries * (ENTRY_OPERATIONS + 2 * heads))
        kept += 4 * length * heads * model.d_model + 64_000_000
    elif method == "flow":
        flows = 2 * length * model.n_layers  # for each token, by the model and by the control
        operations += flows * (FLOW_OPERATIONS + EDGE_OPERATIONS * square * model.n_layers / 4)
    return Work(1.0, texts, kept, operations=texts * operations)


@analysis(
    name="token_attribution",
    question="Which tokens does a position's state come from, going back through all layers?",
    source="Abnar and Zuidema (2020), Quantifying Attention Flow in Transformers, arXiv "
    "2005.00928; Kobayashi et al. (2020, 2021), arXiv 2004.10102, 2109.07152; Modarressi et al. "
    "(2022), GlobEnc, arXiv 2205.03286; Ferrando et al. (2022), ALTI, arXiv 2203.04212",
    cost="1 pass a text",
    view="grid",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    needs=("attention",),
    effects={"residual": among("method", "rollout", "flow")},
    lead="How much of each token is in the target position after each layer, by what the layers "
    "mix; attribution_chance is what the same method says of attention that is even.",
    opens=open_attribution,
)
def token_attribution(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    method: str = "rollout",
    target: Any = -1,
    residual: float | None = None,
) -> None:
    """Follow what each layer mixes back to the tokens, one of five ways, beside a control.

    Each layer is read as a matrix that says how much of each position it puts into each other;
    the matrices of all layers, multiplied, say how much of each token is in each position. MLPs
    and norms before a sublayer work position by position and are passed over. None of the methods
    knows what the model *does* with what it reads: hold the result against an ablation or a
    patch before you call a token important.

    Parameters
    ----------
    method
        ``"rollout"``: half the mean of the heads' patterns, half the position itself, multiplied.
        ``"flow"``: the same matrices as capacities, and the most that can flow from the target
        back to each token; for texts of up to 64 tokens. ``"norm"``: shares by the length of the
        vectors that positions hand over, the residual connection included. ``"alti"``: shares by
        how much nearer each vector brings the sum of all, in L1. ``"globenc"``: lengths behind
        both norms of a block, for post-norm encoders (BERT) only.
    target
        The position that is looked back from: an index, or the text of a token (of a span: its
        last token).
    residual
        Share of a position's own state in ``"rollout"`` and ``"flow"``; None for 0.5, as
        published.

    Notes
    -----
    ``attribution`` after each layer sums to 1 over the tokens; flow and GlobEnc do not by
    themselves, ``total`` is what they were divided by. ``attribution_chance`` is the same method
    with every head looking at all that it can see alike: what the causal mask (which favours
    early tokens) and the residual connection give alone; ``beyond_chance`` is half the L1
    distance between both. ``matrix`` holds all positions as targets, after the last layer (not
    for flow). A layer without attention hands each position its own state.

    Raises
    ------
    InputError
        An option does not fit, or the text is too long for ``"flow"``.
    ModelError
        What positions hand over does not add up to what the attention writes, or the method is
        not defined for the model.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.token_attribution(model, "cat dog owl cat", method="alti")
    >>> round(float(found.data.attribution.isel(layer=-1).sum()), 6)
    1.0
    """
    _check_options(model, tokens, method, residual)
    run = _Run(job, model, tokens, method, RESIDUAL if residual is None else float(residual))
    for row in range(len(tokens.ids)):
        run.text(row, target)
    run.check()


def _check_options(model: LensModel, tokens: Tokens, method: str, residual: float | None) -> None:
    if method not in METHODS:
        raise nearest(str(method), list(METHODS), "Method")
    if residual is not None and not 0 <= residual <= 1:
        raise InputError(f"residual is {residual}; expected a share from 0 to 1.")
    if method == "flow" and (longest := max(tokens.lengths)) > LONGEST_FLOW:
        raise InputError(
            f"The text has {longest} tokens, but the flow is computed for {LONGEST_FLOW} at most: "
            "give a shorter text, or method='rollout'."
        )
    if method in MIXINGS:
        require_vectors(model)
    blocks = [block for block in model.anatomy.blocks if block.attention is not None]
    if method == "globenc" and not all(block.mid_norm and block.post_norm for block in blocks):
        raise ModelError(
            f"globenc is defined for post-norm blocks, and {model.name} has norms elsewhere: "
            "method='alti' and method='norm' work here."
        )


class _Run:
    """The work of one call."""

    def __init__(
        self, job: Job, model: LensModel, tokens: Tokens, method: str, residual: float
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.method, self.residual = method, residual
        self.compared: dict[str, tuple[float, float, str]] = {}
        self.targets: list[int] = []
        self._declare()

    def _declare(self) -> None:
        cells = Cells(self.model, self.tokens)
        coords = cells.coords()
        sizes = {"layer": self.model.n_layers, **cells.sizes()}
        dims, strings = coords["token"]
        numbers = np.arange(self.model.n_layers, dtype=np.int32)
        coords |= {"layer": (("layer",), numbers)}
        if self.method != "flow":
            for axis in ("query", "key"):
                sizes[axis] = sizes["position"]
                coords[axis] = ((axis,), coords["position"][1])
                coords[f"{axis}_token"] = ((*dims[:-1], axis), strings)
        self.job.declare(sizes, coords)

    def text(self, row: int, target: Any) -> None:
        """Run one text and hand over each layer as it is finished."""
        tokens = row_of(self.tokens, row)
        place = self.model.positions(tokens, target)[-1]
        where = {} if self.tokens.single else {"batch": row}

        def show(step: Step) -> None:
            self._emit({**where, "layer": step.layer}, step)
            done = row * self.model.n_layers + step.layer + 1
            self.job.progress(done, len(self.tokens.ids) * self.model.n_layers, "layers")

        through = ThroughLayers(self.model, self.method, self.residual, place, show)
        through.run(tokens, self.job.tick)
        if through.matrix is not None:
            n = len(through.matrix)
            inside: Where = {**where, "query": slice(0, n), "key": slice(0, n)}
            self.job.emit(inside, {"matrix": through.matrix})
        self.targets.append(place)
        for name, error in through.errors.items():
            worst = max(error, self.compared[name][0]) if name in self.compared else error
            self.compared[name] = (worst, *through.limit(name))

    def _emit(self, where: dict[str, int], step: Step) -> None:
        inside: Where = {**where, "position": slice(0, len(step.attribution))}
        cells = {name: getattr(step, name) for name, v in VARIABLES.items() if v.dims == _CELL}
        self.job.emit(inside, cells)
        off = np.abs(step.attribution - step.attribution_chance).sum() / 2
        self.job.emit(where, {"beyond_chance": np.array(off), "total": np.array(step.total)})

    def check(self) -> None:
        """Say what was compared, and what was passed over."""
        for name, (error, limit, what) in self.compared.items():
            self.job.check(name, error, limit, what)
        single = self.tokens.single
        self.job.note(
            passes=len(self.targets),
            target_position=self.targets[0] if single else json.dumps(self.targets),
        )
        if self.method in ("rollout", "flow"):
            self.job.note(residual=self.residual)
        vectors = self.method in MIXINGS
        blocks = enumerate(self.model.anatomy.blocks)
        bare = [
            layer
            for layer, block in blocks
            if block.attention is None or (vectors and not has_vectors(self.model, layer))
        ]
        if bare:
            self.job.remark(
                f"Layers {', '.join(map(str, bare))} have no attention that could be followed: "
                "each position was taken to keep its own state there, whatever they mix."
            )
