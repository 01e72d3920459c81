"""Voids of a prompt and of what is written after it: layers that add too little, token by token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.contract.contract import Dose, Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import given
from layerlens.analyses.sweeps.clean_pass import HALF_TOLERANCE, OUTPUT_TOLERANCE
from layerlens.errors import InputError
from layerlens.metrics.voids import VoidRule
from layerlens.model.text import Tokens
from layerlens.run.forward import model_inputs
from layerlens.run.watch_voids import VARIANTS, Seen, VoidWatch

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_CELL = ("position", "layer")
VARIABLES = {
    "void": Variable(_CELL, "int32", "1", "whether the layer is void for the token"),
    "gain": Variable(
        _CELL, "float64", "1", "what the layer adds to the norm of the state", signed=True
    ),
    "threshold": Variable(_CELL, "float64", "1", "what it had to add at least"),
    "void_share": Variable(("phase", "layer"), "float64", "1", "share of tokens it is void for"),
    "usage": Variable(("phase",), "float64", "1", "share of active layers, over layers and tokens"),
    "last_active": Variable(
        ("position",), "int32", "layer", "last active layer (-1: none)", missing=-2
    ),
    "input_id": Variable(("position",), "int32", "1", "token", is_token=True),
}
PHASES = ("prompt", "generated")


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    alpha: float,
    max_new_tokens: int,
    variant: str,
    generate_options: Mapping[str, Any] | None,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    texts, length = tokens.ids.shape
    written = texts * max(0, max_new_tokens - 1)
    whole = length + max(0, max_new_tokens - 1)
    # A step of one token reads all weights: count it as a pass over the text all the same.
    state = whole * model.d_model * model.dtype.itemsize
    return Work(2 * texts + written / whole, texts * (2 + written), 4 * state * model.n_layers)


@analysis(
    name="voids",
    question="Which layers does the model hardly use for each token, read or written?",
    source="Shemiranifar (2025), Void in Language Models, arXiv 2505.14467 (L2 Adaptive "
    "Computation)",
    cost="2 passes a text, and a step for each generated token",
    view="grid",
    lead="A coloured cell is a layer that adds next to nothing to the state of that token, while "
    "it is read or written.",
    variables=VARIABLES,
    work=count_work,
    doses=[Dose("alpha", (0.2, 0.4, 0.6, 0.8, 0.9), "share of the range to be added")],
    effects=dict.fromkeys(("variant", "generate_options"), given("max_new_tokens")),
)
def voids(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    alpha: float = 0.8,
    max_new_tokens: int = 0,
    variant: str = "reference",
    generate_options: Mapping[str, Any] | None = None,
) -> None:
    """Mark the layers that add too little to the norm of a token's state.

    With ``gain`` what a layer adds to the Euclidean norm of the residual stream, it is *void*
    for a token when ``gain < alpha * (max - min)`` of the gains of the layers before it; the
    first one when its gain is negative. Each call of the model begins anew: the prompt is one
    (its tokens are decided together), each generated token another.

    Parameters
    ----------
    alpha
        0 to 1; 0: void where the norm shrinks. A larger one never makes fewer voids.
    max_new_tokens
        How many tokens to write after the prompt; 0: only the prompt is looked at. The last one
        is not read by the model, so it has no voids.
    variant
        What void layers mean for what is written. ``reference``, as published: every layer runs,
        and the head is given the output of the token's last active layer, so voids before it have
        no effect. ``true_skip``: a void layer passes on what it was given; it has to run first,
        which saves nothing and is not what was published. ``none``: the model writes as it does.
    generate_options
        For ``hf.generate``; greedy unless it says ``do_sample=True``.

    Notes
    -----
    ``usage`` and ``void_share`` have an axis ``phase``: ``prompt`` and ``generated``. A jump of
    the norm (a massive activation) makes the range of gains so large that every later layer is
    void: see ``gain`` and ``threshold``. Attributes ``new_text`` and ``phases`` (for each
    position); a text that ended early, or is shorter than others, has -1 in ``void`` there.

    Raises
    ------
    InputError
        An option does not fit, or the text is too long.
    ModelError
        Tokens are to be written by a model that cannot.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.voids(model, [5, 9, 4, 5], max_new_tokens=3)
    >>> found.data.void.sizes["position"]
    6
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}; expected a number from 0 to 1.")
    if variant not in VARIANTS:
        raise InputError(f"variant is {variant!r}; expected one of {', '.join(VARIANTS)}.")
    if isinstance(max_new_tokens, bool) or max_new_tokens < 0:
        raise InputError(f"max_new_tokens is {max_new_tokens}; expected a whole number from 0.")
    options = dict(generate_options or {})
    for name in ("num_beams", "num_return_sequences"):
        if options.get(name, 1) != 1:
            raise InputError(
                f"{name} is {options[name]}; voids follows one continuation: leave it."
            )
    _Voids(job, model, tokens, alpha, variant).run(max_new_tokens, options)


class _Voids:
    """The work of one call."""

    def __init__(
        self, job: Job, model: LensModel, tokens: Tokens, alpha: float, variant: str
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.alpha, self.variant = alpha, variant
        self.texts: list[str] = []
        self.phases: list[list[str]] = []
        self.strings: list[list[str]] = []
        self.off = 0
        self.calls = 0

    def run(self, new: int, options: dict[str, Any]) -> None:
        """Every text by itself."""
        self.new = new
        self.width = self.tokens.ids.shape[1] + max(0, new - 1)
        self._declare()
        rows = zip(self.tokens.ids, self.tokens.mask, strict=True)
        for row, (ids, mask) in enumerate(rows):
            self._text(row, ids[mask].tolist(), options)
            self.job.progress(row + 1, len(self.tokens.ids), "texts")
        single = self.tokens.single
        axes = ("position",) if single else ("batch", "position")
        strings = np.array(self.strings[0] if single else self.strings)
        self.job.label({"token": (axes, strings)})
        self.job.note(
            variant=self.variant,
            alpha=self.alpha,
            passes=self.calls,
            phases=json.dumps(self.phases[0] if single else self.phases),
            new_text=self.texts[0] if single else json.dumps(self.texts, ensure_ascii=False),
        )
        what = "decisions that one pass over the whole text makes differently, ties apart"
        self.job.check("one pass decides alike", self.off, 0, what)

    def _declare(self) -> None:
        layers = np.arange(self.model.n_layers, dtype=np.int32)
        sizes = {"position": self.width, "layer": len(layers), "phase": len(PHASES)}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "position": (("position",), np.arange(self.width, dtype=np.int32)),
            "layer": (("layer",), layers),
            "phase": (("phase",), np.array(PHASES)),
        }
        if not self.tokens.single:
            sizes["batch"] = len(self.tokens.ids)
        self.job.declare(sizes, coords)

    def _text(self, row: int, ids: list[int], options: dict[str, Any]) -> None:
        """Read one text and write what follows."""
        self.lead = {} if self.tokens.single else {"batch": row}
        self.seen: list[Seen] = []
        self.at = 0
        with VoidWatch(self.model, self._rule, self.variant, self._see):
            if self.new:
                written = self.model.generate(ids, self.new, **options)
                fed = written.ids[: self.at] if self.at >= len(ids) else ids
                self.texts.append(written.new_text)
            else:
                self.model.hf(**model_inputs(self.model, self.job.tokens(ids), "last"))
                fed = ids
                self.texts.append("")
        self.calls += len(self.seen)
        self._emit(ids, fed)
        self._compare(fed)

    def _rule(self) -> VoidRule:
        return VoidRule(self.alpha)

    def _see(self, seen: Seen) -> None:
        """Hand over what was decided for the tokens of one call."""
        self.job.tick()
        self.seen.append(seen)
        here = slice(self.at, self.at + seen.void.shape[1])
        self.at = here.stop
        arrays = {
            "void": seen.void.T.int().numpy(),
            "gain": seen.gain.T.numpy(),
            "threshold": seen.threshold.T.numpy(),
            "last_active": _last_active(seen.void),
        }
        self.job.emit({**self.lead, "position": here}, arrays)

    def _emit(self, ids: list[int], fed: list[int]) -> None:
        """What sums up a text, and what fills the positions that it has not."""
        void = torch.cat([seen.void for seen in self.seen], 1).double()
        parts = (void[:, : len(ids)], void[:, len(ids) :])
        shares = [p.mean(1) if p.shape[1] else torch.full((len(p),), torch.nan) for p in parts]
        usage = torch.stack([1 - share.mean() for share in shares])
        self.job.emit(
            self.lead, {"void_share": torch.stack(shares).numpy(), "usage": usage.numpy()}
        )
        tokens = np.full(self.width, -1, dtype=np.int32)
        tokens[: len(fed)] = fed
        self.job.emit(self.lead, {"input_id": tokens})
        strings = list(self.model.vocabulary.split(fed)[0])
        self.strings.append(strings + [""] * (self.width - len(fed)))
        self.phases.append([PHASES[place >= len(ids)] for place in range(len(fed))])
        if len(fed) < self.width:
            if len(fed) < len(ids) + max(0, self.new - 1):
                self.job.remark("A text ended before all tokens were written.")
            rest = slice(len(fed), self.width)
            shape = (self.width - len(fed), self.model.n_layers)
            for name in ("void", "gain", "threshold"):
                variable = VARIABLES[name]
                empty = np.full(shape, variable.fill, dtype=variable.dtype)
                self.job.emit({**self.lead, "position": rest}, {name: empty})
            none = np.full(shape[0], -2, dtype=np.int32)
            self.job.emit({**self.lead, "position": rest}, {"last_active": none})

    def _compare(self, fed: list[int]) -> None:
        """Decide again in one pass over prompt and written tokens, without a cache."""
        whole: list[Seen] = []
        with VoidWatch(self.model, self._rule, self.variant, whole.append):
            self.model.hf(**model_inputs(self.model, self.job.tokens(fed), "last"))
        self.calls += 1
        mine = torch.cat([seen.void for seen in self.seen], 1)
        margin = (whole[0].gain - whole[0].threshold).abs()
        size = torch.maximum(whole[0].gain.abs(), whole[0].threshold).amax(0).clamp(min=1.0)
        near = margin <= OUTPUT_TOLERANCE.get(self.model.dtype, HALF_TOLERANCE) * size
        self.off += int(((whole[0].void != mine) & ~near).sum())


def _last_active(void: torch.Tensor) -> np.ndarray:
    """Number of the last layer that is not void, ``[n]`` int32; -1 where all are."""
    layers = torch.arange(len(void)).unsqueeze(1)
    found = torch.where(void, -1, layers).amax(0)
    return found.numpy().astype(np.int32)
