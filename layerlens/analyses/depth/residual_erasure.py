"""Until which depth the state at each token is still needed: it is erased, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import Metric
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import given, left_out
from layerlens.analyses.depth.erased_cell import open_erased
from layerlens.analyses.depth.erased_rows import ErasedRows, answer_places
from layerlens.analyses.depth.erased_states import EFFECTS, Means, instead, put
from layerlens.analyses.depth.windows import REDUCTIONS
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.run.base import Base, record_base
from layerlens.run.cell import Cell
from layerlens.run.many_edits import DEFAULT_LIMIT, Method

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("layer", "position")
VARIABLES = {
    "effect": Variable(_CELL, "float32", "1", "distance of the probabilities, state erased"),
    "effect_chance": Variable(
        _CELL, "float32", "1", "distance of the probabilities, state moved as far at random"
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    reference: Any,
    positions: Any,
    answers: Any,
    reduce: str,
    skip_first: bool | int,
    seed: int,
    verify: int,
    method: Method,
    memory_limit: int,
) -> Work:
    """Count passes and rows through the head of one call, as if each cell were a full row."""
    texts, length = tokens.ids.shape
    places = len(Cells(model, tokens, positions)) / texts
    cells = 2 * places * (model.n_layers + 1) / 2 * texts
    state = 3 * length * model.d_model * model.n_layers * model.dtype.itemsize
    rows = round(2 * places * model.n_layers * texts)
    whole_passes = 2
    if answers is not None:
        found = answer_places(model, tokens, answers)
        rows = round(rows * sum(map(len, found)) / texts)
        whole_passes = 4
    return Work(whole_passes + (cells + verify * texts) / texts, rows, state)


@analysis(
    name="residual_erasure",
    question="Until which layer is the state at each token still needed for the answer?",
    source="Csordás, Manning and Potts (2025), Do Language Models Use Their Depth Efficiently?, "
    "arXiv 2505.13898",
    cost="2 passes a text, and two edited runs for each layer and token",
    view="grid",
    lead="A cell is how far the prediction moves when the state before that layer is erased at "
    "that token: where a column loses its colour, the rest of the text has what it needs of it.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    effects={"reduce": given("answers"), "method": left_out("answers")},
    opens=open_erased,
)
def residual_erasure(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    reference: Any = None,
    positions: Any = None,
    answers: Any = None,
    reduce: str = "max",
    skip_first: bool | int = True,
    seed: int = 0,
    verify: int = 2,
    method: Method = "auto",
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Erase the state before a layer at one token, and see how far the prediction moves.

    With ``p`` the probabilities of all tokens where the text is answered and ``p'`` those after
    the state at one token is replaced by the layer's mean state, ``effect`` is the Euclidean
    norm of ``p - p'``: 0 to 1.41; of several answers the largest. Tokens whose effect ends early
    were read early; the model has done with them whatever it computes there later.

    Parameters
    ----------
    reference
        Texts whose mean state, over all their tokens, takes the place of a state: what texts
        have in common is kept, what tells them apart is gone. None: the other texts given; of
        one text alone its own tokens. The published mean is over 10 other prompts.
    positions
        Which tokens are erased; None for all.
    answers
        Where predictions are measured: positions, a slice, or the text of a span, such as all of
        a long answer; ``slice(None)`` for every next token. A list of such for several texts is
        one each. None: where each text is answered, which costs least.
    reduce
        What is made of several answers: ``max`` as published, ``mean`` or ``p95``.
    skip_first
        Leave out the first token of each text (or so many) from the mean states, which it would
        own in many models.
    seed
        Of the random directions and of the cells that are verified.
    verify
    method
    memory_limit

    Notes
    -----
    ``effect_chance`` is the control: the state is moved as far as the mean state is away, in a
    random direction. A cell that does not exceed it says that any change of that size does as
    much, not that the token's content is needed. Published maps take the largest effect over
    the tokens of a long answer. Row ``l`` erases the state before layer ``l``, so that row 0
    erases the embedding. The attribute ``replaced_by`` says what was put in.

    Raises
    ------
    InputError
        An option does not fit, or there is no token to take a mean of.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> erased = ll.residual_erasure(model, [1, 2, 3, 4, 1])
    >>> erased.data.effect.dims
    ('layer', 'position')
    """
    if reduce not in REDUCTIONS:
        raise InputError(f"reduce is {reduce!r}; expected one of {', '.join(REDUCTIONS)}.")
    measured = None if answers is None else answer_places(model, tokens, answers)
    cells = Cells(model, tokens, positions)
    _declare(job, model, cells)
    texts = [row_of(tokens, row) for row in range(len(tokens.ids))]
    means = Means(job, model, texts, reference, int(skip_first))
    passes = float(means.passes)
    methods: dict[str, None] = {}
    for row, text in enumerate(texts):
        where = cells.column[cells.text == row] - int(tokens.mask[row].nonzero()[0])
        places = cells.position[cells.text == row]
        share, mean = (row, len(texts)), means.of(row)
        if measured is None:
            erased = _Erased(job, model, record_base(model, text), mean, share)
            passes += 1 + erased.run(where, places, seed + row, verify, method, memory_limit)
            methods |= dict.fromkeys(erased.methods)
        else:
            rows = ErasedRows(job, model, text, mean, measured[row], reduce, share)
            passes += 3 + rows.run(where, places, seed + row, verify, memory_limit)
            methods["restart"] = None
    job.note(
        replaced_by=means.words,
        direction="the state before a layer is replaced at one token",
        method=", ".join(methods),
        passes=passes,
    )


def _declare(job: Job, model: LensModel, cells: Cells) -> None:
    coords = {"layer": (("layer",), np.arange(model.n_layers, dtype=np.int32)), **cells.coords()}
    job.declare({"layer": model.n_layers, **cells.sizes()}, coords)


class _Erased:
    """One text with every state erased, one at a time.

    Attributes
    ----------
    methods
        How the runs were computed.
    """

    def __init__(
        self, job: Job, model: LensModel, base: Base, mean: Tensor, share: tuple[int, int]
    ) -> None:
        self.job, self.model, self.base, self.mean = job, model, base, mean
        self.share = share
        self.methods: list[str] = []
        own = model.unembed(base.final.unsqueeze(0))
        reference = own.softmax(-1)
        self.measure = Metric(
            model,
            "distance of the probabilities",
            answer=int(own.argmax()),
            function=lambda logits: (logits.softmax(-1) - reference).norm(dim=-1),
        )

    def run(
        self,
        where: np.ndarray,
        places: np.ndarray,
        seed: int,
        verify: int,
        method: Method,
        memory_limit: int,
    ) -> float:
        """Erase at tokens ``where``, which are ``places`` of the grid; returns the passes."""
        random = torch.Generator().manual_seed(seed)
        row, texts = self.share
        passes = 0.0
        for half, name in enumerate(EFFECTS):
            sweep = Sweep(
                self.job,
                self.model,
                self.base,
                self.measure,
                lambda values, name=name: {name: values.astype(np.float32)},  # type: ignore[misc]
                lead={"batch": row} if self.job.batched else {},
                share=(2 * row + half, 2 * texts),
                method=method,
                memory_limit=memory_limit,
            )
            for layer in range(self.model.n_layers):
                for at, place in zip(where.tolist(), places.tolist(), strict=True):
                    state = self.base.state(layer)[at]
                    new = instead(state, self.mean[layer], random if half else None)
                    cell = Cell((put(layer, at, new),))
                    sweep.add(cell, {"layer": layer, "position": place})
            own = sweep.add(Cell((put(0, int(where[0]), self.base.state(0)[where[0]]),)), None)
            sweep.run()
            passes += sweep.passes
            self.methods.append(sweep.method)
            if not half:
                self._check(sweep, own, verify, seed)
        return passes

    def _check(self, sweep: Sweep, own: int, verify: int, seed: int) -> None:
        text = f" of text {self.share[0]}" if self.job.batched else ""
        what = "distance of the probabilities with a state replaced by itself"
        error = abs(float(sweep.values[own]) - sweep.base_value)
        self.job.check(f"own state changes nothing{text}", error, sweep.tolerance, what)
        sweep.verify(verify, seed)
