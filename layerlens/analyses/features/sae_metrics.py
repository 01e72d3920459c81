"""How well a sparse autoencoder stands in for the activations that it reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.dictionaries.dictionary import Dictionary, mean_max_cosine
from layerlens.analyses.features.replacing import RUNS, Replaced, Sums, batches_of
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.errors import InputError
from layerlens.result.fitted import Fitted
from layerlens.result.opening import open_saved

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Given = Fitted | str | os.PathLike[str]
BINS = np.linspace(-6.0, 0.0, 25)
"""Edges of the histogram of densities, as powers of ten."""
CONTROL = 1_000_003
"""Seed of the random rows: none that a training begins with is drawn from it."""
DENSE = 0.1
"""A feature that is on for more of the tokens than this is dense."""
VARIABLES = {
    "ce": Variable(
        ("layer?", "replacement"), "float32", "nats",
        "cross-entropy of the next token, by what stands in the layer's place",
    ),
    "kl": Variable(
        ("layer?", "replacement"), "float32", "nats",
        "KL divergence of the model's own answer from the run's",
    ),
    "ce_score": Variable(
        ("layer?", "ablation"), "float32", "1", "CE score (loss recovered)",
        formula="(CE of the ablation - CE of the dictionary) / (CE of the ablation - CE clean)",
    ),
    "kl_score": Variable(
        ("layer?", "ablation"), "float32", "1", "KL score",
        formula="1 - KL of the dictionary / KL of the ablation",
    ),
    "explained_variance": Variable(
        ("layer?",), "float32", "1", "explained variance; the mean alone explains 0",
        formula="1 - sum |x - y|^2 / sum |x - mean|^2",
    ),
    "l0": Variable(("layer?",), "float32", "features", "features on for a token (L0)"),
    "shrinkage": Variable(
        ("layer?",), "float32", "1", "norm of what is decoded over that of the activation",
        formula="mean of |y| / |x|",
    ),
    "bias": Variable(
        ("layer?",), "float32", "1", "relative reconstruction bias; below 1 it shrinks",
        formula="mean |y|^2 / mean x . y",
        source="Rajamanoharan et al. (2024), Improving Dictionary Learning with Gated SAEs",
    ),
    "dead": Variable(("layer?",), "float32", "1", "share of features that were never on"),
    "dense": Variable(
        ("layer?",), "float32", "1", f"share of features on for more than {DENSE:.0%} of the tokens"
    ),
    "density_histogram": Variable(
        ("layer?", "log_density"), "float32", "features",
        "features by their density, as a power of ten",
    ),
    "density": Variable(("layer?", "feature"), "float32", "1", "share of the tokens it is on for"),
    "profile": Variable(
        ("layer", "feature"), "float32", "1", "share of a feature's activation by layer; 0 if none",
        formula="sum_t f(l, t) / sum_l sum_t f(l, t)",
        source="Lawson et al. (2024), Residual Stream Analysis with Multi-Layer SAEs",
    ),
    "mmcs": Variable(
        ("direction",), "float32", "1", "mean largest cosine of decoder rows (MMCS)",
        source="Sharkey, Braun and Millidge (2022), Taking features out of superposition",
    ),
}  # fmt: skip
ABLATIONS = ("zero", "mean")
DIRECTIONS = ("of this in the other", "of the other in this", "of random rows in the other")


def dictionary_of(model: LensModel, given: Given | None) -> tuple[Fitted, Dictionary, Places]:
    """What was given, opened where it is a path, and the activations that it reads.

    Raises
    ------
    InputError
        It is no sparse autoencoder, or one of another model.
    """
    sae = open_saved(given) if isinstance(given, str | os.PathLike) else given
    if not isinstance(sae, Fitted):
        raise InputError("sae is none: give what ll.train_sae or ll.load_sae returned.")
    sae.require(model, "sae")
    told = sae.options
    places = Places.of(model, told["site"], told["layers"], told["positions_skipped"])
    return sae, Dictionary.of(sae), places


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    sae: Given | None,
    other: Given | None,
    memory_limit: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; reads the texts, runs nothing."""
    _, dictionary, places = dictionary_of(model, sae)
    rows = rows_of(model, tokens)
    fed = sum(len(row.ids) for row in rows)
    passes = 3 + len(places.sites) * (len(RUNS) - 1)
    operations = 4.0 * fed * len(places.sites) * dictionary.width * dictionary.features
    return Work(passes, passes * fed, memory_limit, tokens=fed, operations=operations)


@analysis(
    name="sae_metrics",
    question="How much of a layer does a dictionary of features hold, and does the model miss the "
    "rest?",
    source="Bricken et al. (2023), Towards Monosemanticity; Gao et al. (2024), Scaling and "
    "Evaluating Sparse Autoencoders, arXiv 2406.04093",
    cost="3 passes, and 3 for each layer that the dictionary reads",
    view="panels",
    lead="The nearer the dictionary's run is to the clean one, and the farther from the two "
    "ablations beside it, the more of what the model uses its features hold.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    needs=("head", "causal"),
)
def sae_metrics(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    sae: Given | None = None,
    other: Given | None = None,
    memory_limit: int = 400_000_000,
) -> None:
    """Measure a sparse autoencoder on texts: what it keeps, what it costs, how it is used.

    Parameters
    ----------
    sae
        What ``ll.train_sae`` or ``ll.load_sae`` returned, or the path of its file.
    other
        A second one of the same width: how many directions they share (MMCS).
    memory_limit

    Notes
    -----
    Special tokens and the first of each text, which the dictionary was not learned from, are
    neither measured nor replaced. ``ce`` and ``kl`` over ``replacement`` are of the model as
    it is (``clean``), with the activations of a layer replaced by what is decoded (``sae``), by
    nothing (``zero``) and by their mean (``mean``), one layer at a time. The scores are 1 where the
    dictionary changes nothing and 0 where it is no better than the ablation. A dictionary of
    several layers has an axis ``layer``, and ``profile``.

    Raises
    ------
    InputError
        It is of another model, or no token counts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> sae = ll.train_sae(model, texts, layers=0, size=2, k=4, test=0.25, batch=16)
    >>> found = ll.sae_metrics(model, texts, sae=sae)
    >>> found.checks.ok, float(found.data.l0)
    (True, 4.0)
    """
    _, dictionary, places = dictionary_of(model, sae)
    rows = rows_of(model, tokens)
    passes = batches_of(places, rows, memory_limit)
    if not passes:
        raise InputError("No token counts: special ones and the first of each text do not.")
    _declare(job, places, dictionary, other is not None)
    if other is not None:
        _compare(job, model, dictionary, other)
    sums = Sums(places, dictionary)
    for batch in passes:
        sums.see_mean(batch, job.tick)
    replaced = Replaced(model, places, dictionary, sums.means())
    for done, batch in enumerate(passes, 1):
        replaced.measure(batch, sums, job.tick)
        job.emit({}, _found(sums, places))
        job.progress(done, len(passes), "measuring")
    job.note(passes=3 + 3 * len(places.sites), tokens=sums.tokens)
    job.check(
        "with the error, the model itself", replaced.error_of_identity, replaced.tolerance,
        "largest difference of a logit from the model's own, with what is not decoded put back",
    )  # fmt: skip
    density = sums.on.sum(1) / max(1, sums.tokens)
    off = float(np.abs(density.numpy() - sums.l0()).max())
    job.check("density sums to L0", off, 1e-3, "features")


def _declare(job: Job, places: Places, dictionary: Dictionary, compared: bool) -> None:
    sizes = {
        "layer": len(places.sites), "replacement": len(RUNS), "ablation": 2,
        "log_density": len(BINS) - 1, "feature": dictionary.features,
    }  # fmt: skip
    centres = (BINS[1:] + BINS[:-1]) / 2
    coords = {
        "layer": (("layer",), np.array(places.layers, dtype=np.int32)),
        "replacement": (("replacement",), np.array(RUNS)),
        "ablation": (("ablation",), np.array(ABLATIONS)),
        "log_density": (("log_density",), centres.astype(np.float32)),
        "feature": (("feature",), np.arange(dictionary.features, dtype=np.int32)),
    }
    if len(places.sites) == 1:  # its numbers are no curves
        del sizes["layer"], coords["layer"]
    if compared:
        sizes["direction"] = len(DIRECTIONS)
        coords["direction"] = (("direction",), np.array(DIRECTIONS))
    job.declare(sizes, coords)


def _compare(job: Job, model: LensModel, dictionary: Dictionary, other: Given) -> None:
    """How far the directions of two dictionaries are the same, and random ones by chance."""
    _, second, _ = dictionary_of(model, other)
    mine, theirs = dictionary["W_dec"], second["W_dec"]
    if mine.shape[1] != theirs.shape[1]:
        raise InputError(
            f"The other dictionary writes {theirs.shape[1]} entries, this one {mine.shape[1]}: "
            "give one of the same width."
        )
    drawn = torch.randn(mine.shape, generator=torch.Generator().manual_seed(CONTROL))
    found = [mean_max_cosine(*pair) for pair in ((mine, theirs), (theirs, mine), (drawn, theirs))]
    job.emit({}, {"mmcs": np.array(found, dtype=np.float32)})


def _found(sums: Sums, places: Places) -> dict[str, np.ndarray]:
    """Everything by what was seen so far."""
    ce, kl = sums.runs("ce"), sums.runs("kl")
    clean, with_sae, ablated = ce[:, :1], ce[:, 1:2], ce[:, 2:]
    density = (sums.on / max(1, sums.tokens)).numpy()
    logs = np.log10(density + 1e-10).clip(BINS[0], BINS[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "ce": ce,
            "kl": kl,
            "ce_score": (ablated - with_sae) / (ablated - clean),
            "kl_score": 1 - kl[:, 1:2] / kl[:, 2:],
            **sums.reconstruction(),
            "l0": sums.l0(),
            "dead": (density == 0).mean(1),
            "dense": (density > DENSE).mean(1),
            "density": density,
        }
    found = {name: np.asarray(one, dtype=np.float32) for name, one in found.items()}
    counts = [np.histogram(row, BINS)[0] for row in logs]
    found["density_histogram"] = np.array(counts, dtype=np.float32)  # is drawn: counts are not
    if len(places.sites) > 1:
        mass = sums.mass.numpy()
        total = mass.sum(0)
        found["profile"] = (mass / np.where(total > 0, total, 1)).astype(np.float32)
        return found
    return {name: one[0] for name, one in found.items()}
