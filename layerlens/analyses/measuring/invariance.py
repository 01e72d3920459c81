"""Whether a layer tells a text that was altered a little from other texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.texts.altered_texts import altered_ids, altered_text
from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.invariant import dime, infonce, lidar
from layerlens.metrics.runner import run_metrics
from layerlens.metrics.sample import Sample
from layerlens.metrics.textmeans import centred, unit

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SKEAN = "Skean et al. (2025), Layer by Layer, arXiv 2502.02013"
KINDS = ("words", "tokens")
NEAR_CAP = 0.95

_POINT = ("point",)
VARIABLES = {
    "infonce": Variable(
        _POINT, "float64", "nats", "InfoNCE loss", source="Oord et al. (2018); Chen et al. (2020)"
    ),
    "infonce_bound": Variable(
        _POINT, "float64", "nats", "mutual information of two views, at least"
    ),
    "infonce_shuffled": Variable(_POINT, "float64", "nats", "InfoNCE loss, views shuffled"),
    "dime": Variable(
        _POINT, "float64", "nats", "difference of entropies", source="Skean et al. (2023), DiME"
    ),
    "lidar": Variable(
        _POINT, "float64", "directions", "LiDAR", source="Thilak et al. (2023), LiDAR"
    ),
    "lidar_shuffled": Variable(_POINT, "float64", "directions", "LiDAR, views shuffled"),
}


class Pooled(Sample):
    """The mean states of all texts; nothing is made of them here."""

    name, units, axes = "pooled", "1", ("point",)
    question = formula = source = "mean states of texts"
    unit = "text"
    fewest = 1

    def compute(self, states: Tensor) -> Arrays:
        """Nothing."""
        return self.blank()


def count_work(model: LensModel, tokens: Tokens, *, views: int, **_: object) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    texts = len(tokens.ids) * views
    return Work(views, texts, texts * (model.n_layers + 1) * model.d_model * 8)


@analysis(
    name="invariance",
    question="Does a layer keep altered copies of a text together, and texts apart?",
    source=SKEAN,
    cost="1 pass for each view of each text",
    view="panels",
    lead="Where a curve is well above its shuffled control, the layer keeps altered copies of "
    "a text together and different texts apart.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
)
def invariance(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    augment: str = "words",
    rate: float = 0.1,
    views: int = 8,
    seed: int = 0,
    temperature: float = 0.1,
    center: bool = True,
    skip_first: bool | int = True,
    batch_size: int | None = None,
) -> None:
    """Compare the mean states of altered copies (views) of texts at every depth.

    Parameters
    ----------
    augment
        ``words``: in each view a share ``rate`` of the words is swapped with the next one, left
        out, or mistyped (a letter becomes its neighbour on the keyboard), each as likely; every
        view is altered. ``tokens``: likewise of token ids, where a random token of the texts
        stands for a typing error.
    rate
        Share that is altered, 0 to 1.
    views
        Altered copies of each text, at least 2. LiDAR takes all, InfoNCE and DiME the first two.
    seed
        Of the alterations, permutations and shuffles. Text and view have a seed of their own.
    temperature
        Of InfoNCE.
    center
        Take off the mean of all views before vectors get length 1.
    skip_first
        Leave out the first token of each text, or so many, from the means.
    batch_size
        Views in one pass; None for as many as keep it below 2,048 tokens.

    Notes
    -----
    ``infonce``: nats, lower is more invariant; ``infonce_bound`` is log(texts) less it, which
    cannot exceed log(texts). ``dime``: nats, 0 where views say nothing of each other, mean of 10
    permutations. ``lidar``: effective rank of the spread between texts relative to that within
    (plus 1e-4), 1 to texts - 1; without signal it is large too, so look at ``_shuffled``, the
    same with views dealt to texts at random.

    Raises
    ------
    InputError
        An option does not fit, there are fewer than two texts, a text has no words (give
        ``augment="tokens"``), or no token of a view counts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [[5, 9, 5, 3], [7, 1, 4, 4]]
    >>> ll.invariance(model, texts, augment="tokens").data.lidar.dims
    ('point',)
    """
    _require(augment, rate, views, temperature, len(tokens.ids))
    made = job.tokens(_views(tokens, augment, rate, views, seed), like=tokens)
    shape = ModelShape.of(model)
    job.declare(
        {"point": shape.sizes["point"]},
        {name: found for name, found in shape.coords.items() if found[0] == _POINT},
    )
    states = _pooled(job, model, made, skip_first, batch_size)
    states = states.view(len(tokens.ids), views, *states.shape[1:])
    most = math.log(len(states))
    for point in range(states.shape[2]):
        job.tick()
        found = _measured(states[:, :, point].double(), temperature, center, seed)
        found["infonce_bound"] = most - found["infonce"]
        if found["infonce_bound"] > NEAR_CAP * most:
            job.remark(
                f"infonce_bound is near log(texts) = {most:.2f} nats, which it cannot exceed: more "
                "texts would tell more."
            )
        job.emit({"point": point}, {name: np.array(value) for name, value in found.items()})
    job.note(texts=len(states), views=views, passes=views, skip_first=int(skip_first))
    _check(job, states, most)


def _require(augment: str, rate: float, views: int, temperature: float, texts: int) -> None:
    if augment not in KINDS:
        raise InputError(f"augment is {augment!r}; expected one of {', '.join(KINDS)}.")
    if not 0 <= rate <= 1:
        raise InputError(f"rate is {rate}; expected a share from 0 to 1.")
    if views < 2:
        raise InputError(f"views is {views}; at least 2 are compared.")
    if temperature <= 0:
        raise InputError(f"temperature is {temperature}; expected a number above 0.")
    if texts < 2:
        raise InputError("invariance compares texts: give a list of at least 2.")


def _views(
    tokens: Tokens, augment: str, rate: float, views: int, seed: int
) -> list[str | list[int]]:
    """All views of the first text, then those of the second..."""
    rows = [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
    pool = sorted({token for row in rows for token in row[1:]}) or rows[0]
    made: list[str | list[int]] = []
    for number, (text, ids) in enumerate(zip(tokens.texts, rows, strict=True)):
        for view in range(views):
            random = np.random.default_rng([seed, number, view])
            if augment == "tokens":
                made.append(altered_ids(ids, pool, rate, random))
            elif not isinstance(text, str):
                raise InputError(
                    f"Text {number} was given as token ids, which have no words: give strings, or "
                    'augment="tokens".'
                )
            else:
                made.append(altered_text(text, rate, random))
    return made


def _pooled(
    job: Job, model: LensModel, made: Tokens, skip_first: bool | int, batch_size: int | None
) -> Tensor:
    """Mean states of all views, in their order: [view, point, d_model] float32."""
    pooled = Pooled(ModelShape.of(model), sample=len(made.ids))
    batches = split(made, batch_size)
    total, done = len(batches) * model.n_layers, iter(range(1, len(batches) * model.n_layers + 1))
    run_metrics(
        model,
        batches,
        MetricSet(pooled.shape, [pooled], int(skip_first)),
        tick=job.tick,
        on_layer=lambda layer: job.progress(next(done), total, f"layer {layer.number}"),
    )
    if len(pooled.arrays["text"]) < len(made.ids):
        short = min(set(range(len(made.ids))).difference(pooled.arrays["text"].tolist()))
        raise InputError(
            f"No token of view {short} counts, as it has {made.lengths[short]} and the first "
            f"{int(skip_first)} are left out: give longer texts, or skip_first=False."
        )
    order = np.argsort(pooled.arrays["text"])
    return torch.from_numpy(pooled.arrays["states"][order])


def _measured(states: Tensor, temperature: float, center: bool, seed: int) -> dict[str, float]:
    """All but the bound, of the views ``[text, view, d]`` at one depth."""
    rows = states.flatten(0, 1)
    rows = unit(centred(rows) if center else rows)
    views = rows.view(states.shape)
    random = np.random.default_rng(seed)
    dealt = rows[torch.from_numpy(random.permutation(len(rows)))].view(states.shape)
    one, other = views[:, 0], views[:, 1]
    return {
        "infonce": infonce(one, other, temperature),
        "infonce_shuffled": infonce(dealt[:, 0], dealt[:, 1], temperature),
        "dime": dime(one, other, seed=seed),
        "lidar": lidar(views),
        "lidar_shuffled": lidar(dealt),
    }


def _check(job: Job, states: Tensor, most: float) -> None:
    """A view with itself is found as well as it can be."""
    rows = unit(centred(states[:, 0, -1].double()))
    n = len(rows)
    exact = math.log(2 * n - 1)
    job.check(
        "constant views",
        abs(infonce(torch.ones_like(rows), torch.ones_like(rows)) - exact),
        1e-9,
        "InfoNCE of equal vectors, less log(2 texts - 1)",
    )
    excess = max(0.0, dime(rows, rows) - most)
    job.check("DiME", excess, 1e-9, "DiME of a view with itself, above log(texts)")
