"""Does the model use what a probe reads: the probe's direction added, beside random ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Dose, Job, Variable, Work, analysis
from layerlens.analyses.sweeps.cell_sweep import Sweep
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.result.fitted import Fitted
from layerlens.result.opening import open_saved
from layerlens.result.result import Result
from layerlens.run.base import record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.many_edits import DEFAULT_LIMIT

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

KIND = "probe"
COEFFICIENTS = (-0.5, -0.25, 0.0, 0.25, 0.5)
_DOSE = ("of", "layer", "coefficient")
VARIABLES = {
    "effect": Variable(
        ("of", "layer"), "float32", "1", "change of the metric from the lowest to the highest dose",
        signed=True,
    ),
    "dose_metric": Variable(_DOSE, "float32", "1", "metric of the steered run", signed=True),
    "dose_change": Variable(_DOSE, "float32", "1", "change of the metric", signed=True),
}  # fmt: skip

Probe = Fitted | Result | str | os.PathLike[str]


def directions_of(model: LensModel, probe: Probe) -> dict[int, Tensor]:
    """The direction of a probe after each layer, by layer.

    Raises
    ------
    InputError
        It is no probe of this model, or has no direction after a layer.
    """
    given = probe.fitted if isinstance(probe, Result) else probe
    found = open_saved(given) if isinstance(given, str | os.PathLike) else given
    if not isinstance(found, Fitted) or found.kind != KIND:
        raise InputError(
            "probe is no probe: give what ll.probe returned, its .fitted, or the path of its file."
        )
    found.require(model, KIND)
    names = [name for name in found if name.endswith("_post.direction")]
    if not names:
        raise InputError(
            "This probe has no direction after a layer: fit one of two classes, linear or by the "
            "difference of means, at site='resid_post'."
        )
    return {int(name.split("_")[0]): found[name] for name in names}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    probe: Probe,
    coefficients: Sequence[float],
    random: int,
    verify: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    layers = directions_of(model, probe)
    cells = (1 + random) * len(coefficients)
    replayed = sum(1 - layer / model.n_layers for layer in layers) * cells
    size = 4 * model.d_model * len(layers) * cells + 4 * 64 * model.d_vocab
    return Work(2 + replayed + verify, len(layers) * cells, size)


@analysis(
    name="probe_steering",
    question="Does the model use what the probe reads?",
    source="Marks and Tegmark (2023), The Geometry of Truth, arXiv 2310.06824; Li et al. (2023), "
    "Inference-Time Intervention, arXiv 2306.03341",
    cost="1 pass, and 1 replay for each layer, dose and direction",
    view="curves",
    lead="A line of the probe above those of random directions of the same length says that the "
    "model uses what the probe reads there; where it does not, the line lies among them.",
    variables=VARIABLES,
    work=count_work,
    doses=[Dose("coefficients", COEFFICIENTS, "how much is added", dim="coefficient")],
    needs=("head",),
)
def probe_steering(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    probe: Probe,
    coefficients: Sequence[float] = COEFFICIENTS,
    random: int = 3,
    answer: Any = None,
    wrong: Any = None,
    metric: str | MetricFunction = "logit_diff",
    seed: int = 0,
    verify: int = 2,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Add multiples of a probe's direction at every position of a text, layer by layer.

    Parameters
    ----------
    probe
        What ``ll.probe`` returned for two classes, its ``fitted``, or the path of that file.
    coefficients
        How much is added, as a share of the mean length of the text's states there. 0 must change
        nothing, and is checked where given.
    random
        How many random directions, as long, are tried beside it.
    answer
    wrong
    metric
    seed
        Of the random directions.
    verify
    memory_limit

    Notes
    -----
    ``effect`` over (``of``, ``layer``) is the metric with the largest coefficient less that with
    the smallest; ``of`` is the probe, and each random direction.

    Raises
    ------
    InputError
        It is no probe of this model, or an option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"{a} {b} fox {a}" for a in ("cat", "dog") for b in ("bee", "ant", "emu", "hen")]
    >>> read = ll.probe(model, texts, [text[:3] for text in texts], folds=3, untrained=False)
    >>> found = ll.probe_steering(model, "cat bee fox cat", probe=read, random=1)
    >>> found.data.effect.dims
    ('of', 'layer')
    """
    directions = directions_of(model, probe)
    doses = [float(value) for value in coefficients]
    if len(set(doses)) < 2:
        raise InputError("Give at least two coefficients: an effect is the difference of two.")
    sites = [Site("resid_post", layer) for layer in directions]
    lengths = _lengths(model, tokens, sites)
    generator = torch.Generator().manual_seed(seed)
    ways = [torch.stack([torch.nn.functional.normalize(d, dim=0) for d in directions.values()])]
    for _ in range(random):
        drawn = torch.randn(ways[0].shape, generator=generator)
        ways.append(torch.nn.functional.normalize(drawn, dim=-1))
    names = ["probe", *(f"random {number + 1}" for number in range(random))]
    _declare(job, names, list(directions), doses)
    base = record_base(model, tokens)
    measure = make_metric(model, metric, final=base.final, answer=answer, wrong=wrong)
    for name in VARIABLES:
        words = measure.words if name == "dose_metric" else f"change of the {measure.words}"
        job.describe(name, units=measure.units, long_name=words)
    sweep = Sweep(
        job,
        model,
        base,
        measure,
        lambda values: {
            "dose_metric": values.astype(np.float32),
            "dose_change": (values - sweep.base_value).astype(np.float32),
        },
        memory_limit=memory_limit,
    )
    everywhere = tuple(range(base.length))
    for way, vectors in enumerate(ways):
        for place, site in enumerate(sites):
            for column, dose in enumerate(doses):
                change = Change(site, "add", dose * lengths[place] * vectors[place], everywhere)
                sweep.add(Cell((change,)), {"of": way, "layer": place, "coefficient": column})
    sweep.run()
    sweep.verify(verify)
    found = np.asarray(sweep.values).reshape(len(ways), len(sites), len(doses))
    effect = found[..., int(np.argmax(doses))] - found[..., int(np.argmin(doses))]
    job.emit({}, {"effect": effect.astype(np.float32)})
    if 0.0 in doses:
        error = float(np.abs(found[..., doses.index(0.0)] - sweep.base_value).max())
        what = "metric with coefficient 0 against the plain run"
        job.check("coefficient 0 changes nothing", error, sweep.tolerance, what)
    job.note(metric=measure.name, base_metric=sweep.base_value, method=sweep.method,
             passes=sweep.passes + 2)  # fmt: skip


def _declare(job: Job, names: list[str], layers: list[int], doses: list[float]) -> None:
    job.batched = False  # one text
    job.declare(
        {"of": len(names), "layer": len(layers), "coefficient": len(doses)},
        {
            "of": (("of",), np.array(names)),
            "layer": (("layer",), np.array(layers, dtype=np.int32)),
            "coefficient": (("coefficient",), np.array(doses)),
        },
    )


def _lengths(model: LensModel, tokens: Tokens, sites: Sequence[Site]) -> list[float]:
    """Mean length of the text's states after each layer."""
    found: dict[Site, float] = {}

    def see(site: Site, value: Tensor) -> None:
        found[site] = float(value[0].float().norm(dim=-1).mean())

    forward(model, tokens, list(sites), see, logits=None)
    return [found[site] for site in sites]
