"""What a state of ``interaction_basis`` opens: its coordinates, each really taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerlens.analyses.circuits.basis import Basis, counts, random_directions
from layerlens.analyses.circuits.basis_run import WAYS
from layerlens.analyses.circuits.basis_states import BasisStates, without
from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.contract.contract import Job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MOST = 8
"""Coordinates that are taken away, the strongest first."""
TEXTS = 16
"""Texts that are run for it."""
SHOWN = 4
"""Texts in which the strongest coordinate is shown."""


def open_coordinates(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    layers: Any,
    predict: str,
    kept: Sequence[int] | None,
    skip_first: bool | int,
    seed: int,
    **_: Any,
) -> Opened:
    """Set each coordinate to its mean, alone, in some texts; beside it a random direction."""
    name = str(place.need("point"))
    layer = 0 if name == "embed" else int(name.removesuffix("_post")) + 1
    answer = place.answer
    point = [*model.layers(layers), model.n_layers].index(layer)
    read, write = (np.asarray(answer[one][point], dtype=np.float64) for one in ("read", "write"))
    shares, mean = np.asarray(answer["share"][point]), np.asarray(answer["mean"][point])
    mean = mean.astype(np.float64)
    basis = Basis(mean, read.T, write, shares)
    states = BasisStates(
        model,
        tokens.chosen(range(min(TEXTS, len(tokens.ids)))),
        [layer] if layer < model.n_layers else [],
        last=predict == "last",
        skip=int(skip_first),
        for_autograd=False,
        tick=job.tick,
    )
    random = random_directions(mean, np.random.default_rng(seed))
    rows = []
    for number in range(min(MOST, int((shares > 0).sum()))):
        losses = [states.loss_with(0, without(one, number)) for one in (basis, random)]
        rows.append([number + 1, float(shares[number]), *(loss - states.loss for loss in losses)])
    head = ["coordinate", "share", "loss added without it", "without a random direction"]
    chosen = int(place.labels.get("coordinate", 1))
    title = f"nats, over {len(states.batches[0].counted)} texts; as it is {states.loss:.3f}"
    return Opened(
        title=f"Coordinates of {name}, each at its mean; coordinate {chosen} in the texts",
        code=place.call,
        tables=[Table(head, rows, title), *_kept(answer, point, counts(kept, model.d_model))],
        texts=_marked(states, tokens, basis, chosen - 1),
    )


def _kept(answer: Mapping[str, Any], point: int, kept: Sequence[int]) -> list[Table]:
    """The loss with the first few directions of this state kept, where it was measured."""
    if "loss_change" not in answer:
        return []
    columns = [np.asarray(answer[f"loss_change{way}"][point]).tolist() for way in WAYS]
    rows = [[few, *losses] for few, *losses in zip(kept, *columns, strict=True)]
    words = "nats added with the first few kept, in the other texts"
    return [Table(["kept", *WAYS.values()], rows, words)]


def _marked(
    states: BasisStates, tokens: Tokens, basis: Basis, number: int
) -> list[list[tuple[str, float]]]:
    """The first texts, each token marked by how far a coordinate is from its mean."""
    batch, read = states.batches[0], torch.from_numpy(basis.read[:, number])
    state = batch.states[0][:SHOWN].double().cpu()
    size = ((state - torch.from_numpy(basis.mean)) @ read).abs() * batch.counted[:SHOWN]
    marks = size / size.max().clamp(min=1e-12)
    return [
        list(
            zip(
                tokens.strings[row],
                marks[row][tokens.mask[row][: marks.shape[1]]].tolist(),
                strict=False,
            )
        )
        for row in range(len(marks))
    ]
