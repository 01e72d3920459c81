"""Direct logit attribution: what each part of a model adds to a logit, summed exactly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import left_out
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contributions.logit_directions import norms_on_stream
from layerlens.analyses.contributions.split_sublayer import UNIT_SITES, unit_sites
from layerlens.analyses.contributions.split_text import SUBLAYERS, TextSplit, components
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError, ModelError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

VARIABLES = {
    "head_contribution": Variable(
        ("layer", "head"), "float32", "logit", "added by the head", signed=True
    ),
    "neuron_contribution": Variable(
        ("layer", "neuron"), "float32", "logit", "added by the neuron", signed=True
    ),
    "sublayer_contribution": Variable(
        ("layer", "sublayer"), "float32", "logit", "added by the sublayer", signed=True
    ),
    "source_contribution": Variable(
        ("layer", "head", "source"),
        "float32",
        "logit",
        "added by the head from the position",
        signed=True,
    ),
    "contribution": Variable(
        ("component",), "float32", "logit", "added by the component", signed=True
    ),
    "accumulated": Variable(
        ("point",), "float32", "logit", "sum of all parts up to the point", signed=True
    ),
    "bias_contribution": Variable(
        ("layer",),
        "float32",
        "logit",
        "added by the biases of the sublayer that was split",
        signed=True,
    ),
    "target_id": Variable(("target",), "int32", "1", "explained token", is_token=True),
    "logit": Variable(("target",), "float32", "logit", "the model's own logit, soft-cap included"),
    "logit_before_cap": Variable(("target",), "float32", "logit", "sum of all parts"),
}

_UNIT_VARIABLES = {
    "component": (),
    "head": ("head_contribution",),
    "source": ("head_contribution", "source_contribution"),
    "neuron": ("neuron_contribution",),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    answer: Any,
    wrong: Any,
    unit: str,
    position: Any,
    center: bool,
    stream_norms: str,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    texts, length = tokens.ids.shape
    kept = 3 * model.n_layers * model.d_model
    if unit == "source":
        kept += model.n_layers * length * model.d_model
    return Work(1.0, texts, 4 * (kept + 4 * model.d_vocab))


@analysis(
    name="direct_logit_attribution",
    question="What does each part of the model add to this logit?",
    source="Elhage et al. (2021), A Mathematical Framework for Transformer Circuits, Transformer "
    "Circuits Thread",
    cost="1 pass a text",
    view="grid",
    lead="Each number is what one part writes towards the token's logit: blue is for it, red "
    "against, and all of them add up to the logit.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    gradients=True,
    effects={"center": left_out("wrong")},
)
def direct_logit_attribution(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    answer: Any = None,
    wrong: Any = None,
    unit: str = "component",
    position: Any = -1,
    center: bool = False,
    stream_norms: str = "refuse",
) -> None:
    """Split a logit, or a difference of two, into what every part of the model writes.

    The final norm's statistics are held at the values that they have in this run, as are those of
    norms that stand behind a sublayer (sandwich norms); the rest is linear, so the parts add up
    to the logit exactly, up to rounding. A model for which they do not is refused with the number.
    This is the direct effect alone: what later parts make of a write is counted as theirs.

    Parameters
    ----------
    answer
        The token whose logit is split, a string or an id; for several texts also a list. None:
        what the model itself answers.
    wrong
        A token whose logit is subtracted, likewise; None: none.
    unit
        ``"component"``: the embedding, each attention and each MLP. ``"head"``: also each head.
        ``"source"``: also each position that each head looks at. ``"neuron"``: also each hidden
        unit of the MLPs.
    position
        The position whose next token is explained: an index, or the text of a token (of a span:
        its last token).
    center
        Measure a logit from the mean over the vocabulary, which a difference is free of.
    stream_norms
        ``"refuse"`` models whose blocks norm the stream itself (post-norm blocks), or
        ``"freeze"`` each such norm too: still an exact sum, but what an early part adds then
        depends on the statistics of every later block.

    Notes
    -----
    ``contribution`` over ``component`` always holds the whole split: ``embed``, ``0_attn_out``,
    ``0_mlp_out``, ..., and ``constant``, the share of the biases of the norm and the head.
    ``accumulated`` adds it up from the constant on: at each point it is the logit that the held
    norm and the head read there. A sublayer's part is that of its heads (or neurons) and of its
    ``bias_contribution``. Where the model soft-caps its logits, the parts explain the logit
    before the cap. Layers without such units are NaN.

    Raises
    ------
    InputError
        An option does not fit.
    ModelError
        The parts do not add up to the model's logit, or the model has no such units.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> parts = ll.direct_logit_attribution(model, [5, 9, 5], unit="head")
    >>> parts.data.head_contribution.shape
    (2, 4)
    """
    _check_options(model, unit, stream_norms)
    run = _Run(job, model, tokens, unit, center)
    texts = tokens.ids.shape[0]
    answers, wrongs = one_each(answer, texts, "answer"), one_each(wrong, texts, "wrong")
    if any(token is None for token in wrongs) and wrong is not None:
        raise InputError("wrong names a token for some texts only: name one for each, or none.")
    for row in range(texts):
        run.text(row, answers[row], wrongs[row], position)
        job.progress(row + 1, texts)
    run.check()


def _check_options(model: LensModel, unit: str, stream_norms: str) -> None:
    if unit not in UNIT_SITES:
        raise nearest(str(unit), list(UNIT_SITES), "Unit")
    if stream_norms not in ("refuse", "freeze"):
        raise nearest(str(stream_norms), ["refuse", "freeze"], "stream_norms:")
    paths = norms_on_stream(model)
    if paths and stream_norms == "refuse":
        raise ModelError(
            f"{model.name} norms the residual stream itself ({paths[0]} and {len(paths) - 1} "
            "more), so what a block writes is rescaled by every later block and there is no one "
            "split of a logit: pass stream_norms='freeze' to hold each of these norms at its "
            "statistics."
        )


class _Run:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, tokens: Tokens, unit: str, center: bool) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.unit, self.center = unit, center
        self.sites = unit_sites(model, unit)
        self.errors: dict[str, float] = {}
        self.limit = 0.0
        self.positions: list[int] = []

    def text(self, row: int, answer: Any, wrong: Any, position: Any) -> None:
        """Run one text, split its logit and hand over the parts."""
        tokens = row_of(self.tokens, row)
        place = self.model.positions(tokens, position)[-1]
        split = TextSplit(self.model, tokens, place, self.sites, self.job)
        targets = self._targets(split.own, answer, wrong)
        if self.job.parts is None:
            self._declare(len(targets), split)
        where = {} if self.tokens.single else {"batch": row}
        arrays = split.explain(targets, center=self.center)
        self._emit(where, {**arrays, "target_id": torch.tensor(targets)})
        layers = {site.block for site in self.sites}
        for layer in range(self.model.n_layers):
            self.job.tick()
            found = split.units(layer, self.unit) if layer in layers else {}
            self._emit({**where, "layer": layer}, {**self._nothing(), **found})
        self.positions.append(place)
        self.limit = max(self.limit, split.limit)
        for name, error in split.errors.items():
            self.errors[name] = max(error, self.errors.get(name, 0.0))

    def _targets(self, own: Tensor, answer: Any, wrong: Any) -> list[int]:
        """The answer, and the wrong one if there is one."""
        targets = [int(own.argmax()) if answer is None else self.model.token_id(answer)]
        if wrong is not None:
            targets.append(self.model.token_id(wrong))
        if len(set(targets)) < len(targets):
            raise InputError(
                "The answer and the wrong answer are the same token, "
                f"{self.model.token_string(targets[0])!r}: name another one."
            )
        return targets

    def _declare(self, targets: int, split: TextSplit) -> None:
        """State axes and coordinates; how many neurons there are is seen in the first text."""
        model, written = self.model, components(self.model)[1:]
        labels = ["embed", *(f"{site.layer}_{site.kind}" for site in written), "constant"]
        layers = [-1, *(site.block for site in written), model.n_layers]
        points = [label for label, _, _ in model.anatomy.points()]
        cells = Cells(model, self.tokens)
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "sublayer": (("sublayer",), np.array(SUBLAYERS)),
            "component": (("component",), np.array(labels)),
            "component_layer": (("component",), np.array(layers, dtype=np.int32)),
            "point": (("point",), np.array(points)),
            **cells.coords(),
        }
        sizes = {axis: len(coords[axis][1]) for axis in ("sublayer", "component", "point")}
        sizes |= {"layer": model.n_layers, "target": targets, **cells.sizes()}
        if self.unit in ("head", "source"):
            sizes["head"] = model.n_heads
        if self.unit == "source":
            dims, strings = coords["token"]
            sizes["source"] = sizes["position"]
            coords["source_token"] = ((*dims[:-1], "source"), strings)
        if self.unit == "neuron":
            sizes["neuron"] = max(len(split.values[site]) for site in self.sites)
        for axis in {"layer", "head", "source", "neuron"} & sizes.keys():
            coords[axis] = ((axis,), np.arange(sizes[axis], dtype=np.int32))
        self.job.declare(sizes, coords)

    def _nothing(self) -> dict[str, Tensor]:
        """What a layer without such units holds."""
        names = ["bias_contribution", *_UNIT_VARIABLES[self.unit]]
        return {name: torch.full((0,) * (len(VARIABLES[name].dims) - 1), np.nan) for name in names}

    def _emit(self, where: dict[str, int], arrays: dict[str, Tensor]) -> None:
        """Hand over arrays, filled up with NaN where other layers or texts are larger."""
        assert self.job.parts is not None
        sizes = self.job.parts.sizes
        full = {}
        for name, value in arrays.items():
            variable = VARIABLES[name]
            shape = tuple(sizes[axis] for axis in variable.dims if axis not in where)
            full[name] = np.full(shape, variable.fill, dtype=variable.dtype)
            full[name][tuple(slice(0, size) for size in value.shape)] = value.numpy()
        self.job.emit(where, full)

    def check(self) -> None:
        """Say what was compared, and where."""
        what = {
            "sum": "sum of all parts and the constant against the model's own logits",
            "unit": f"sum of a sublayer's {self.unit}s and its biases against its own part",
            "source": "sum of a head's source positions against its own part",
        }
        if self.unit == "source":
            what["unit"] = what["unit"].replace("sources", "heads")
        names = {"sum": "parts sum to the logit", "unit": "units sum to the sublayer"}
        for name, error in self.errors.items():
            title = names.get(name, "sources sum to the head")
            self.job.check(title, error, self.limit, f"{what[name]} (logits)")
        single = self.tokens.single
        self.job.note(
            passes=len(self.positions),
            explained_position=self.positions[0] if single else json.dumps(self.positions),
            effect="direct: what later parts make of a write is counted as theirs",
        )
        head = self.model.anatomy.head
        if head is not None and any(operation == "cap" for operation, _ in head.operations):
            self.job.remark(
                "The model soft-caps its logits: the parts add up to the logit before the cap."
            )
