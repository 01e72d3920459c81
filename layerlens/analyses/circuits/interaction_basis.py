"""How many directions of a state matter to what follows, and whether the model needs no others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from layerlens.analyses.circuits.basis import counts
from layerlens.analyses.circuits.basis_cell import open_coordinates
from layerlens.analyses.circuits.basis_run import LITTLE, RANKS, WAYS, BasisRun
from layerlens.analyses.circuits.basis_states import BasisStates
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.probing.untrained import untrained as make_untrained
from layerlens.errors import InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_POINT, _FIRST = ("point",), ("point", "coordinate")
_SHARES = {
    "share": ("coordinate", "share of a coordinate in all that matters"),
    "share_pca": ("coordinate", "share of a principal component in the variance"),
    "share_untrained": ("coordinate_untrained", "share of a coordinate, untrained"),
}
VARIABLES = {
    **{
        f"added_loss{way}": Variable(
            ("kept",), "float64", "nats", f"loss added with the first {words} kept", signed=True
        )
        for way, words in WAYS.items()
    },
    **{
        f"enough{way}": Variable(
            _POINT, "float64", "directions", f"enough to add at most {LITTLE:g} nats: {words}"
        )
        for way, words in WAYS.items()
    },
    **{
        f"loss_change{way}": Variable(
            ("point", "kept"), "float64", "nats", f"loss added with the first {words} kept",
            signed=True, hidden=True,
        )
        for way, words in WAYS.items()
    },
    "rank": Variable(
        ("point", "of"), "float64", "directions", "effective rank",
        formula="exp of the entropy of shares (Roy and Vetterli 2007)",
    ),
    **{
        name: Variable(("point", axis), "float64", "1", words)
        for name, (axis, words) in _SHARES.items()
    },
    "strength": Variable(
        _POINT, "float64", "logits²", "what the states change in all that follows",
        formula="sum of the eigenvalues of G M",
    ),
    "loss": Variable((), "float64", "nats", "loss of the model as it is"),
    "read": Variable(
        (*_FIRST, "width"), "float32", "1", "weights that read a coordinate", hidden=True
    ),
    "write": Variable(
        (*_FIRST, "width"), "float32", "1", "direction that a coordinate stands for", hidden=True
    ),
    "mean": Variable(("point", "width"), "float32", "1", "mean state", hidden=True),
}  # fmt: skip


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Any,
    draws: int,
    kept: Sequence[int],
    coordinates: int,
    untrained: bool,
    sample: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; a way back counts as one pass more."""
    starts = model.layers(layers)
    share = min(1.0, sample / sum(tokens.lengths))
    # Each draw goes back through every block that lies above the first point.
    models, above = 1 + bool(untrained), 1 - starts[0] / model.n_layers
    fitted = models * (1 + above * (1 + 2 * draws)) / 2
    rest = sum(1 - start / model.n_layers for start in starts)
    each = 1 + len(WAYS) * len(counts(kept, model.d_model))
    tries = (1 + rest * each) / 2
    used, points = round(share * sum(tokens.lengths)), len(starts) + 1
    rows = round(used * (models * (1 + draws) + 1 + points * each) / 2)
    states = used * points * model.d_model * model.dtype.itemsize
    logits = 6 * 4 * 256 * model.d_vocab
    matrices = 12 * 8 * model.d_model**2
    return Work(share * (fitted + tries), rows, states + logits + matrices)


@analysis(
    name="interaction_basis",
    question="How many directions of a state does what follows depend on, and are these enough?",
    source="Bushnaq et al. (2024), The Local Interaction Basis, arXiv 2405.10928; Bushnaq et al. "
    "(2024), Using Degeneracy in the Loss Landscape for Mechanistic Interpretability, arXiv "
    "2405.10927",
    cost="half of the texts: draws + 1 passes and as many back, twice with the untrained model; "
    "the other half: 3 passes from each layer on for each number of kept coordinates",
    view="panels",
    lead="The earlier a curve of added loss falls to 0, the fewer coordinates the model needs; "
    "those of the interaction basis are worth having where they need fewer than principal "
    "components. Losses are a mean over states; choose a state for its own, and its coordinates.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal"),
    pooled=True,
    gradients=True,
    opens=open_coordinates,
)
def interaction_basis(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Any = None,
    predict: Literal["all", "last"] = "all",
    kept: Sequence[int] | None = None,
    coordinates: int = 32,
    draws: int = 8,
    untrained: bool = True,
    sample: int = 2048,
    skip_first: bool | int = True,
    seed: int = 0,
) -> None:
    """Find the coordinates of each state that matter, and keep a few of them in other texts.

    From the logits down, each state between blocks is written in coordinates that vary
    independently of each other and that the next state's coordinates depend on independently.
    Their strengths say how much each matters: its variance times what that changes. Half of the
    texts are used for that. In the others the first few coordinates are kept, all others are set to
    their mean, and the model runs on; beside it the first principal components and random
    directions.

    Parameters
    ----------
    layers
        Blocks whose input is looked at, negative from the end; None for all. The state after the
        last block always is. What lies between two of them is one step.
    predict
        Which next tokens count: ``"all"``, or the ``"last"`` token of each text, for a task that
        has its answer there.
    kept
        How many coordinates are kept, in turn; None for 1, 4, 16 ... below the width.
    coordinates
        How many are shown and handed over, the strongest.
    draws
        Random signs for each token, each with a backward pass: the more, the less noise.
    untrained
        Find the same in a model that was not trained.
    sample
        How many tokens are used, at most; each keeps its states.
    skip_first
        Leave out the first token of each text (or so many); its state stays what it is.
    seed
        Of the halves, the signs, the untrained weights and the random directions.

    Notes
    -----
    With ``G`` the covariance of the states and ``M`` the mean of ``J^T J``, ``J`` the derivative of
    the next point's coordinates by the state, the strengths are ``eig(G M)``. At the end ``J`` is
    that of the logits less their mean. *All positions* count: ``J^T J`` of a token adds up what its
    state changes at its own and at all later positions. ``M`` is not computed exactly, but from
    products with random signs, without bias; it needs several times as many of them (tokens times
    draws) as the model is wide. The source works with small networks, the sum over positions and
    the basis are its own; random signs, kept coordinates in other texts and all controls are ours.

    Coordinates are not orthogonal: a state is read by ``read`` and made again by ``write``. The
    derivative is that of small changes: what saturates (attention, norms) may need more directions
    than ``rank`` says, which is why the kept ones are tried. ``loss_change`` holds what that adds
    at each state, of which ``added_loss`` is the mean; ``enough`` is the first of the numbers kept
    from which on no more than 0.1 nats are added, and all directions where none of them is.

    Raises
    ------
    InputError
        There are fewer than 4 texts, too few tokens count, or an option does not fit.
    ModelError
        The model cannot be built untrained.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:modular")
    >>> texts = [f"{a} + {b} = {(a + b) % 113}" for a, b in ((3, 5), (70, 60), (9, 8), (50, 1))]
    >>> found = ll.interaction_basis(model, texts, predict="last", kept=[4], untrained=False)
    >>> found.data.point.values.tolist(), found.data.added_loss.dims
    (['embed', '0_post'], ('kept',))
    """
    few = _require(predict, kept, coordinates, draws, sample, model.d_model)
    starts, shown = model.layers(layers), min(coordinates, model.d_model)
    read = partial(
        BasisStates, starts=starts, last=predict == "last", skip=int(skip_first), tick=job.tick
    )
    own, apart = halves(tokens, sample, seed)
    fitted, tried = tokens.chosen(own), tokens.chosen(apart)
    run = BasisRun(
        job, read(model, fitted, for_autograd=True), read(model, tried, for_autograd=False),
        few, shown, draws, seed,
    )  # fmt: skip
    require_foretold(run.own, run.apart)
    _declare(job, model, starts, few, shown, untrained)
    other = (
        (lambda: read(make_untrained(model, seed), fitted, for_autograd=True))
        if untrained
        else None
    )
    run.fit(other)
    run.say(model.d_model)


def _declare(
    job: Job, model: LensModel, starts: list[int], few: list[int], shown: int, untrained: bool
) -> None:
    """Say which axes there are; those of the untrained model only where it is asked for."""
    ends = np.array([*starts, model.n_layers], dtype=np.int32)
    first = np.arange(1, shown + 1, dtype=np.int32)
    axes = {
        "point": np.array(names_of(model, starts)),
        "of": np.array(RANKS if untrained else RANKS[: len(RANKS) // 2]),
        "kept": np.array(few, dtype=np.int32),
        "coordinate": first,
    }
    if untrained:
        axes["coordinate_untrained"] = first
    job.declare(
        {"width": model.d_model, **{axis: len(labels) for axis, labels in axes.items()}},
        {
            **{axis: ((axis,), labels) for axis, labels in axes.items()},
            "point_layer": (("point",), ends - 1),
        },
    )


def names_of(model: LensModel, starts: Sequence[int]) -> list[str]:
    """Names of the states before some blocks, and of that after the last one."""
    names = ["embed", *(f"{layer}_post" for layer in range(model.n_layers))]
    return [names[end] for end in (*starts, model.n_layers)]


def _require(
    predict: str, kept: Sequence[int] | None, coordinates: int, draws: int, sample: int, width: int
) -> list[int]:
    """How many coordinates are kept, of options that fit."""
    require_options(predict, coordinates=coordinates, draws=draws, sample=sample)
    few = counts(None if kept is None else [whole(one, "kept") for one in kept], width)
    if not few or few[0] < 0 or few[-1] > width:
        raise InputError(f"kept is {few}; expected numbers from 0 to {width}, the width.")
    return few


def require_options(predict: str, **least: int) -> None:
    """Refuse tokens that are none to predict, and numbers below 1."""
    if predict not in ("all", "last"):
        raise nearest(predict, ["all", "last"], "predict")
    for name, value in least.items():
        if whole(value, name) < 1:
            raise InputError(f"{name} is {value}; expected 1 or more.")


def require_foretold(*states: BasisStates) -> None:
    """Refuse texts in which no next token counts."""
    if not all(one.foretold for one in states):
        raise InputError("No next token counts: give longer texts, or skip_first=False.")


def halves(tokens: Tokens, sample: int, seed: int) -> tuple[list[int], list[int]]:
    """Texts that the bases are of and texts on which they are tried, as many as may be used."""
    order = np.random.default_rng(seed).permutation(len(tokens.ids))
    used = np.cumsum([tokens.lengths[row] for row in order])
    rows = order[: max(4, int((used <= sample).sum()))].tolist()
    if len(rows) < 4:
        raise InputError(
            f"Texts given: {len(rows)}; expected 4 or more: half of them find the bases, and the "
            "others try them."
        )
    return sorted(rows[::2]), sorted(rows[1::2])
