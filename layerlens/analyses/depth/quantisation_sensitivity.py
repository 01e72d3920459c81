"""What the output loses when the weights of one layer are rounded to few bits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.answers.prediction_change import Outputs, kl
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import When
from layerlens.analyses.depth.bit_allocation import allocate
from layerlens.analyses.depth.weight_cells import open_rounded
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, passes, require_tokens, tolerance
from layerlens.analyses.sweeps.output_changes import output_changes
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import is_whole, whole, wholes
from layerlens.model.matrices import Matrix, matrices
from layerlens.run.pointed import places_and_sums
from layerlens.run.quantise import MOST_BITS, quantised, require_quantisable

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("layer", "bits?")
VARIABLES = {
    **output_changes(_CELL, {"": "with the layer rounded"}),
    "weight_error": Variable(
        _CELL, "float64", "1", "relative error of the layer's rounded weights (Frobenius)"
    ),
    "weights": Variable(("layer",), "int64", "1", "weights of the layer that are rounded"),
    "loss": Variable((), "float64", "nats", "loss of the model as it is"),
    "allocated_bits": Variable(("layer",), "int32", "1", "bits of the layer within the budget"),
    "allocated_kl": Variable(
        (), "float64", "nats", "KL divergence of the prediction with all layers rounded so"
    ),
    "allocated_loss_change": Variable(
        (), "float64", "nats", "change of the loss with all layers rounded so"
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    bits: int | Sequence[int],
    budget: float | None,
    group: int | None,
    chosen: str,
    layers: Sequence[int] | None,
    skip_first: bool | int,
    batch_size: int | None,
    verify: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    wanted = model.layers(layers)
    times = len(_bits(bits))
    replayed = sum(model.n_layers - layer for layer in wanted) / model.n_layers
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    states = (model.n_layers + 3) * widest * model.d_model * model.dtype.itemsize
    size = max(sum(m.parameter.numel() for m in matrices(model, layer)) for layer in wanted)
    rows = (1 + len(wanted) * times) * sum(tokens.lengths)
    again = 0 if budget is None else 2
    rows += (again > 0) * 2 * sum(tokens.lengths)
    return Work(
        1 + times * replayed + verify + again, rows, states + size * (model.dtype.itemsize + 16)
    )


@analysis(
    name="quantisation_sensitivity",
    question="Which layers have to keep their precision?",
    source="symmetric round-to-nearest of one layer at a time, measured at the output, as in "
    "Dumitru et al. (2024), Layer-Wise Quantization, arXiv 2406.17415",
    cost="1 pass, and half a pass for each layer and number of bits",
    view="panels",
    lead="The higher a layer stands, the more the output suffers when its weights alone are "
    "rounded to so many bits.",
    variables=VARIABLES,
    work=count_work,
    reads=ANY_KIND,
    needs=("head",),
    pooled=True,
    effects={"budget": When("bits", "with several bits", lambda bits: not is_whole(bits))},
    opens=open_rounded,
)
def quantisation_sensitivity(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    bits: int | Sequence[int] = 4,
    budget: float | None = None,
    group: int | None = None,
    chosen: str = "",
    layers: Sequence[int] | None = None,
    skip_first: bool | int = True,
    batch_size: int | None = None,
    verify: int = 1,
) -> None:
    """Round the linear weights of one layer to few bits and see what the output loses.

    The weights are rounded to the nearest of ``2^bits - 1`` evenly spaced values whose largest is
    the largest weight of the output channel (or group), and used in the model's own dtype; what
    passes between them is not rounded. Afterwards the model holds its own weights again, bit by
    bit, also when it was stopped.

    Parameters
    ----------
    bits
        2 to 24, or several numbers, which then are an axis.
    budget
        With several ``bits``: how many a weight may have on average. ``allocated_bits`` is then
        the choice with the least sum of the layers' own ``kl`` within it (found exactly, by
        dynamic programming), and the model is measured once more with all layers rounded so:
        ``allocated_kl``, which need not be the sum.
    group
        Inputs of a channel that share a scale, such as 64; None for whole channels.
    chosen
        Round only matrices whose name in the block contains this: ``"mlp"``, ``"q_proj"``.
    layers
        Which layers; None for all.
    skip_first
    batch_size
    verify
        How many layers of the first batch are run again as a pass of the whole model.

    Notes
    -----
    ``kl`` is that of the clean prediction from the one with the layer rounded, ``loss_change``
    the change of the mean loss per token; both are means over tokens, with intervals over texts.
    A layer without such a matrix is NaN in ``weight_error`` and changes nothing.

    Raises
    ------
    InputError
        The model is quantised already or shares weights between layers; an option does not fit;
        no token counts.
    ModelError
        The model has no head.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.quantisation_sensitivity(model, [5, 9, 4, 5, 9], bits=8)
    >>> found.data.kl.dims
    ('layer',)
    """
    wanted = model.layers(layers)
    widths = _bits(bits)
    if group is not None and whole(group, "group") < 1:
        raise InputError(f"group is {group}; expected a positive number of inputs, or None.")
    require_quantisable(model, wanted)
    if not any(chosen in m.name for layer in wanted for m in matrices(model, layer)):
        known = ", ".join(m.name for m in matrices(model, wanted[0])) or "none"
        raise InputError(f"No weight matrix is called like {chosen!r}; layer {wanted[0]}: {known}.")
    if budget is not None and budget < min(widths):
        raise InputError(f"budget is {budget}; expected at least {min(widths)}, the fewest bits.")
    require_tokens(tokens, skip_first)
    axis = not is_whole(bits)
    work = _Sensitivity(job, model, tokens, wanted, widths, axis, group, chosen)
    work.run(skip_first, batch_size, verify, budget)


def _bits(bits: Any) -> list[int]:
    """The numbers of bits, as a list."""
    given = wholes(bits, "bits")
    if not all(2 <= number <= MOST_BITS for number in given):
        raise InputError(
            f"bits is {bits!r}; expected a whole number from 2 to {MOST_BITS}, or several (with "
            "one bit only zero would be left)."
        )
    return list(given)


class _Sensitivity:
    """The work of one call."""

    def __init__(
        self,
        job: Job,
        model: LensModel,
        tokens: Tokens,
        layers: list[int],
        bits: list[int],
        axis: bool,
        group: int | None,
        chosen: str,
    ) -> None:
        self.job, self.model, self.tokens = job, model, tokens
        self.layers, self.bits, self.axis = layers, bits, axis
        self.group, self.chosen = group, chosen
        shape = (len(layers), len(bits))
        self.means = {name: TokenMeans(*shape) for name in ("kl", "loss_change")}
        self.loss = TokenMeans(1)
        self.sizes = [0] * len(layers)
        self.done = 0
        self.blocks = 0
        self.again = self.off = 0.0

    def run(
        self, skip_first: bool | int, batch_size: int | None, verify: int, budget: float | None
    ) -> None:
        """Every layer with every number of bits, for each batch."""
        self._declare(budget)
        self.before = places_and_sums(self.model)
        total = len(split(self.tokens, batch_size)) * len(self.layers) * len(self.bits)
        for one in passes(self.model, self.tokens, skip_first, batch_size, self.job.tick):
            outputs = Outputs(self.model, one.batch, one.taken(one.states[-1]))
            self.loss.add((0,), outputs.loss, one.batch)
            self.job.emit({}, {"loss": self.loss.mean()[0]})
            self.blocks += self.model.n_layers
            for place, layer in enumerate(self.layers):
                for column, bits in enumerate(self.bits):
                    verified = one.batch.numbers[0] == 0 and column == 0 and place < verify
                    self._measure(one, outputs, (place, column), verified)
                    self.done += 1
                    self.job.progress(self.done, total, f"layer {layer}, {bits} bits")
        if budget is not None:
            self._allocate(budget, skip_first, batch_size)
        self._finish(verify)

    def _allocate(self, budget: float, skip_first: bool | int, batch_size: int | None) -> None:
        """Choose the bits of each layer, and measure the model with all of them."""
        kls = self.means["kl"].mean()
        places = allocate(kls, self.sizes, self.bits, budget)
        bits = [self.bits[place] for place in places]
        total = sum(self.sizes)
        used = sum(size * own for size, own in zip(self.sizes, bits, strict=True)) / total
        means = {name: TokenMeans(1) for name in ("kl", "loss_change")}
        for one in passes(self.model, self.tokens, skip_first, batch_size, self.job.tick):
            outputs = Outputs(self.model, one.batch, one.taken(one.states[-1]))
            with ExitStack() as rounded:
                for layer, own in zip(self.layers, bits, strict=True):
                    how = (self.model, layer, own, self.group, self.chosen)
                    rounded.enter_context(quantised(*how))
                final = one.run(one.states[0], range(self.model.n_layers))
            self.blocks += 2 * self.model.n_layers
            distance, loss = outputs.compare(one.taken(final), kl)
            means["kl"].add((0,), distance, one.batch)
            means["loss_change"].add((0,), loss - outputs.loss, one.batch)
        found = {f"allocated_{name}": mean.mean()[0] for name, mean in means.items()}
        self.job.emit({}, {"allocated_bits": np.array(bits, dtype=np.int32), **found})
        alone = float(sum(kls[row, place] for row, place in enumerate(places)))
        self.job.note(budget=budget, allocated_average=used, allocated_kl_sum=alone)
        what = "bits a weight on average beyond the budget"
        self.job.check("within the budget", max(0.0, used - budget), 1e-9, what)

    def _declare(self, budget: float | None) -> None:
        sizes = {"layer": len(self.layers)}
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "layer": (("layer",), np.array(self.layers, dtype=np.int32))
        }
        if self.axis:
            sizes["bits"] = len(self.bits)
            coords["bits"] = (("bits",), np.array(self.bits, dtype=np.int32))
        wanted = [n for n in VARIABLES if budget is not None or not n.startswith("allocated")]
        self.job.declare(sizes, coords, only=wanted)

    def _where(self, cell: tuple[int, int]) -> dict[str, int]:
        return {"layer": cell[0], **({"bits": cell[1]} if self.axis else {})}

    def _measure(self, one: Pass, outputs: Outputs, cell: tuple[int, int], verified: bool) -> None:
        """Run a batch on from one layer with its weights rounded."""
        layer, bits = self.layers[cell[0]], self.bits[cell[1]]
        later = range(layer, self.model.n_layers)
        with quantised(self.model, layer, bits, self.group, self.chosen) as new:
            state = one.run(one.states[layer], later)
            whole = one.without() if verified else None
        self.blocks += len(later) + (self.model.n_layers if verified else 0)
        self.job.tick()
        distance, loss = outputs.compare(one.taken(state), kl)
        self.means["kl"].add(cell, distance, one.batch)
        self.means["loss_change"].add(cell, loss - outputs.loss, one.batch)
        if whole is not None:
            other, _ = outputs.compare(one.taken(whole), kl)
            self.off = max(self.off, float((other - distance).abs().max()))
        arrays = {name: mean.mean()[cell] for name, mean in self.means.items()}
        self.job.emit(self._where(cell), arrays)
        if one.batch.numbers[0] == 0:
            self.job.emit(self._where(cell), {"weight_error": np.array(_error(new))})
            size = sum(matrix.parameter.numel() for matrix, _ in new)
            self.sizes[cell[0]] = size
            self.job.emit({"layer": cell[0]}, {"weights": np.array(size)})

    def _finish(self, verify: int) -> None:
        for name, mean in self.means.items():
            low, high = mean.interval()
            for end, values in (("_low", low), ("_high", high)):
                self.job.emit({}, {name + end: values if self.axis else values[:, 0]})
        self.job.note(
            passes=self.blocks / self.model.n_layers,
            method="restart from the state before the layer; symmetric round-to-nearest",
        )
        changed = sum(a != b for a, b in zip(self.before, places_and_sums(self.model), strict=True))
        what = "weights whose sum or place in memory is not what it was"
        self.job.check("weights are back", changed, 0, what)
        if verify:
            what = "KL against passes of the whole model with the layer rounded"
            self.job.check("naive agreement", self.off, tolerance(self.model), what)


def _error(new: list[tuple[Matrix, Tensor]]) -> float:
    """Relative error of rounded weights, all of a layer together."""
    off = sum(float((w.float() - m.weight.float()).norm()) ** 2 for m, w in new)
    size = sum(float(m.weight.float().norm()) ** 2 for m, _ in new)
    return (off / size) ** 0.5 if size else float("nan")
