"""Steering directions: the mean difference of two conditions at each layer, and what it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.asked import chosen_layers, one_each
from layerlens.analyses.contract import Job, Variable, Work, analysis
from layerlens.analyses.directions import Separation, separate
from layerlens.analyses.metric import make_metric
from layerlens.analyses.options import nearest
from layerlens.analyses.pair import row_of
from layerlens.analyses.sweep import Sweep
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.base import record_base
from layerlens.run.cells import DEFAULT_LIMIT, Cell
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
COEFFICIENTS = (-0.5, -0.25, 0.0, 0.25, 0.5)
NEUTRAL = "The meeting starts at ten, and the room is on the second"
"""What the side effect is measured on unless another text is given."""

_DOSE = ("layer", "coefficient")
_SEPARATION = {
    "norm_ratio": ("1", "length of the direction over that of the states"),
    "auc": ("1", "chance that a positive prompt projects higher, held out"),
    "fisher": ("1", "Fisher ratio of the held-out projections"),
    "jsd": ("nats", "JS divergence of the states' softmax over channels"),
    "consistency": ("1", "cosine of single pairs' differences with the direction"),
}
VARIABLES = {
    **{
        name: Variable(("layer",), "float32", units, words)
        for name, (units, words) in _SEPARATION.items()
    },
    "dose_metric": Variable(_DOSE, "float32", "1", "metric of the steered run"),
    "dose_change": Variable(_DOSE, "float32", "1", "change of the metric"),
    "neutral_kl": Variable(_DOSE, "float32", "nats", "KL divergence on the neutral text"),
    "direction": Variable(
        ("layer", "channel"), "float32", "activation", "mean difference of the conditions"
    ),
    "mean_norm": Variable(("layer",), "float32", "activation", "mean length of the states"),
    "scale": Variable(("layer",), "float32", "directions", "a coefficient of 1, in directions"),
}


def count_work(
    model: LensModel,
    positive: Tokens,
    negative: Tokens,
    *,
    layers: Sequence[int] | None,
    coefficients: Sequence[float],
    text: Any,
    verify: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    chosen = chosen_layers(model, layers)
    passes = float(len(positive.ids) + len(negative.ids))
    rows = 0
    if text is not None:
        replayed = sum(1 - layer / model.n_layers for layer in chosen) * len(coefficients)
        passes += 2 * (1 + replayed + verify)
        rows = 2 * len(chosen) * len(coefficients)
    states = 4 * model.d_model * len(chosen) * (len(positive.ids) + len(negative.ids) + 2)
    return Work(passes, rows, states + 4 * 64 * model.d_vocab)


@analysis(
    name="steering",
    question="Which direction separates two conditions, at which layer, and does it steer?",
    source="Rimsky et al., Contrastive activation addition (2024); Turner et al., ActAdd (2023)",
    cost="2 passes a pair; with a text, 2 replays for each layer and coefficient",
    view="curves",
    variables=VARIABLES,
    work=count_work,
    inputs=("positive", "negative"),
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
    coefficients
        How much of the direction is added. 0 must change nothing, and is checked where given.
    relative
        Coefficients are shares of the mean length of the layer's states, so that layers can be
        compared; else multiples of the direction itself.
    answer, wrong, metric
        What is measured of the steered text; see :func:`layerlens.analyses.metric.make_metric`.
    neutral
        The text that shows the side effect: the KL divergence of its steered next-token
        distribution from the unsteered one. None: a plain English sentence (without a tokenizer
        there is none, and ``neutral_kl`` is NaN).
    verify
        How many steered runs are made again in the plainest way.
    memory_limit
        Bytes of working memory above the model's own.

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
    >>> model = ll.load("toy:induction")  # doctest: +SKIP
    >>> found = ll.steering(model, [[5, 6], [7, 6]], [[5, 8], [7, 8]])  # doctest: +SKIP
    >>> found.data.direction.shape  # doctest: +SKIP
    (2, 64)
    """
    job.batched = False  # the prompts are one set of data, not several questions
    work = _Steering(job, model, _sites(model, site, layers))
    work.require_pairs(positive, negative)
    doses = [float(c) for c in coefficients]
    work.declare(doses if text is not None else [])
    places = one_each(position, len(positive.ids), "position")
    states = [work.states(tokens, places) for tokens in (positive, negative)]
    work.separate(*states, relative=relative)
    if text is not None:
        tokens = row_of(model.tokens(text), 0)
        options = {"verify": verify, "limit": memory_limit, "at": steer_at}
        work.steer(tokens, doses, metric, answer=answer, wrong=wrong, **options)
        work.disturb(neutral, doses, **options)
    work.finish()


def _sites(model: LensModel, kind: str, layers: Sequence[int] | None) -> list[Site]:
    """Where the directions are, one site a layer."""
    if kind not in SITES:
        raise nearest(str(kind), list(SITES), "Site of steering:")
    sites = [Site(kind, layer) for layer in chosen_layers(model, layers)]
    for found in sites:
        model.anatomy.tap(found)  # raises, and says why
    return sites


class _Steering:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, sites: list[Site]) -> None:
        self.job, self.model, self.sites = job, model, sites
        self.found: list[Separation] = []
        self.scales: list[float] = []
        self.passes = 0.0
        self.methods: set[str] = set()

    def require_pairs(self, positive: Tokens, negative: Tokens) -> None:
        """Raise unless the prompts pair up."""
        counts = len(positive.ids), len(negative.ids)
        if counts[0] != counts[1]:
            raise InputError(
                f"There are {counts[0]} positive and {counts[1]} negative prompts: they are paired "
                "one by one, so give as many of each."
            )

    def declare(self, coefficients: list[float]) -> None:
        """State axes and coordinates."""
        layers = [site.block for site in self.sites]
        sizes = {"layer": len(layers), "channel": self.model.d_model}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "layer": (("layer",), np.array(layers, dtype=np.int32))
        }
        if coefficients:
            sizes["coefficient"] = len(coefficients)
            coords["coefficient"] = (("coefficient",), np.array(coefficients))
        self.job.declare(sizes, coords)

    def states(self, tokens: Tokens, places: list[Any]) -> np.ndarray:
        """States ``[layer, prompt, width]`` float64 at one position of each prompt."""
        found = np.empty((len(self.sites), len(tokens.ids), self.model.d_model))
        index = {site: i for i, site in enumerate(self.sites)}
        for row in range(len(tokens.ids)):
            one = row_of(tokens, row)
            place = self.model.positions(one, places[row])[-1]

            def keep(site: Site, value: Tensor, row: int = row, place: int = place) -> None:
                self.job.tick()
                found[index[site], row] = value[0, place].float().cpu().numpy()

            forward(self.model, one, self.sites, keep, logits=None)
            self.passes += 1
        if not np.isfinite(found).all():
            raise InputError(
                "The states hold NaN or infinity: check the model's weights and dtype (float16 "
                "overflows where bfloat16 or float32 do not)."
            )
        return found

    def separate(self, positive: np.ndarray, negative: np.ndarray, *, relative: bool) -> None:
        """Find the directions, and how well each separates the conditions."""
        for place, (high, low) in enumerate(zip(positive, negative, strict=True)):
            found = separate(high, low)
            scale = 1.0
            if relative:
                scale = found.mean_norm / found.norm if found.norm else 0.0
            self.found.append(found)
            self.scales.append(scale)
            arrays = {
                "norm_ratio": found.norm / found.mean_norm if found.mean_norm else np.nan,
                **{name: getattr(found, name) for name in _SEPARATION if name != "norm_ratio"},
                "direction": found.direction,
                "mean_norm": found.mean_norm,
                "scale": scale,
            }
            shown = {name: np.array(value, dtype=np.float32) for name, value in arrays.items()}
            self.job.emit({"layer": place}, shown)
        worst = max(max(found.jsd - np.log(2), -found.jsd) for found in self.found)
        what = "by how much a divergence lies outside [0, ln 2] (nats)"
        self.job.check("JS divergence in its range", max(0.0, worst), 1e-9, what)

    def steer(
        self,
        tokens: Tokens,
        doses: list[float],
        metric: str | MetricFunction,
        *,
        answer: Any,
        wrong: Any,
        verify: int,
        limit: int,
        at: Any,
    ) -> None:
        """Add multiples of the directions while the text runs."""
        base = record_base(self.model, tokens)
        measure = make_metric(self.model, metric, final=base.final, answer=answer, wrong=wrong)
        self.job.describe("dose_metric", units=measure.units, long_name=measure.words)
        words = f"change of the {measure.words}"
        self.job.describe("dose_change", units=measure.units, long_name=words)
        sweep = Sweep(
            self.job,
            self.model,
            base,
            measure,
            lambda values: {
                "dose_metric": values.astype(np.float32),
                "dose_change": (values - sweep.base_value).astype(np.float32),
            },
            share=(0, 2),
            memory_limit=limit,
        )
        self._sweep(sweep, doses, self.model.positions(tokens, at), verify)
        if 0.0 in doses:
            none = sweep.values.reshape(-1, len(doses))[:, doses.index(0.0)]
            error = float(np.abs(none - sweep.base_value).max())
            what = "metric with coefficient 0 against the plain run"
            self.job.check("coefficient 0 changes nothing", error, sweep.tolerance, what)
        self.job.note(
            metric=measure.name,
            metric_words=measure.words,
            base_metric=sweep.base_value,
            steered_text="".join(tokens.strings[0]),
        )

    def disturb(
        self, neutral: Any, doses: list[float], *, verify: int, limit: int, at: Any
    ) -> None:
        """Add the same to a text that should not care."""
        if neutral is None and self.model.tokenizer is None:
            nothing = np.full((len(self.sites), len(doses)), np.nan, dtype=np.float32)
            self.job.emit({}, {"neutral_kl": nothing})
            self.job.remark("There is no tokenizer for the neutral sentence: give neutral=.")
            return
        tokens = row_of(self.model.tokens(NEUTRAL if neutral is None else neutral), 0)
        base = record_base(self.model, tokens)
        measure = make_metric(self.model, "kl", final=base.final)
        sweep = Sweep(
            self.job,
            self.model,
            base,
            measure,
            lambda values: {"neutral_kl": values.astype(np.float32)},
            share=(1, 2),
            memory_limit=limit,
        )
        # The text's positions mean nothing here: every one is steered.
        self._sweep(sweep, doses, list(range(base.length)), verify)
        self.job.note(neutral_text="".join(tokens.strings[0]))

    def _sweep(self, sweep: Sweep, doses: list[float], positions: list[int], verify: int) -> None:
        """Run one text with each dose at each layer."""
        if not positions:
            raise InputError("No position of the text was chosen: ask for at least one.")
        for place, site in enumerate(self.sites):
            step = torch.from_numpy(self.found[place].direction * self.scales[place])
            for column, dose in enumerate(doses):
                value = (dose * step).float()
                change = Change(site, "add", value, tuple(positions))
                sweep.add(Cell((change,)), {"layer": place, "coefficient": column})
        sweep.run()
        sweep.verify(verify)
        self.methods.add(sweep.method)
        self.passes += sweep.passes + 1

    def finish(self) -> None:
        """Say which layers separate best."""
        layers = [site.block for site in self.sites]
        for name in ("auc", "fisher", "jsd"):
            values = np.array([getattr(found, name) for found in self.found])
            if np.isfinite(values).any():
                self.job.note(**{f"layer_by_{name}": layers[int(np.nanargmax(values))]})
        ratios = [found.norm / found.mean_norm if found.mean_norm else 0.0 for found in self.found]
        self.job.note(
            layer_by_norm_ratio=layers[int(np.argmax(ratios))],
            passes=self.passes,
            site=self.sites[0].kind,
            direction_words="mean of the positive states minus mean of the negative ones",
        )
        if self.methods:
            self.job.note(method=", ".join(sorted(self.methods)))
