"""The work of ``layer_swap``: run on from stored states through blocks of either model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.prediction_change import Outputs, kl
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, passes, tolerance
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.block_weights import of_block, parameters_of, require_alike
from layerlens.run.answer_place import answer_place
from layerlens.run.pointed import pointed

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

ENDS = ("own", "other")
ALONE, BELOW, ABOVE = "alone", "and all before", "and all after"
LEFT_OUT, ANOTHER = "left out", "of another layer"
WAYS = (ALONE, BELOW, ABOVE, LEFT_OUT, ANOTHER)
"""What is done at a layer; the last two are controls."""
MEASURES = ("loss_change", "kl", "kl_other", "answer_probability")


class SwapRun:
    """The work of one call.

    Parameters
    ----------
    ends
        Whose embedding and head are used.
    seed
        Of the draw of other blocks.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        other: LensModel,
        tokens: Tokens,
        layers: list[int],
        ends: str,
        seed: int,
    ) -> None:
        self.job, self.model, self.other, self.tokens = job, model, other, tokens
        self.layers = layers
        self.head = model if ends == "own" else other
        self.ways = [way for way in WAYS if way != ANOTHER or model.n_layers > 1]
        self.elsewhere = derangement(model.n_layers, seed)
        self.means = {name: TokenMeans(len(layers), len(self.ways)) for name in MEASURES}
        self.whole = {name: TokenMeans(2) for name in ("loss", "answer")}
        self.blocks = 0
        self.again = self.off = 0.0

    def run(
        self,
        answers: Sequence[Any],
        skip_first: bool | int,
        batch_size: int | None,
        verify: int,
    ) -> None:
        """Every layer in every way, for each batch."""
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "layer": (("layer",), np.array(self.layers, dtype=np.int32)),
            "block": (("block",), np.array(self.ways)),
        }
        self.job.declare({"layer": len(self.layers), "block": len(self.ways)}, coords)
        verify = self._verifiable(verify)
        with self.other.running():  # it is run block by block, too
            both = [
                passes(model, self.tokens, skip_first, batch_size, self.job.tick)
                for model in (self.model, self.other)
            ]
            total = len(split(self.tokens, batch_size)) * len(self.layers)
            done = 0
            for mine, theirs in zip(*both, strict=True):
                self.blocks += 2 * self.model.n_layers
                batch = _Batch(self, mine, theirs, answers)
                self._emit_whole(batch)
                for place, layer in enumerate(self.layers):
                    verified = mine.batch.numbers[0] == 0 and place < verify
                    self._measure(batch, place, layer, verified)
                    done += 1
                    self.job.progress(done, total, f"layer {layer}")
        self._finish(verify)

    def _verifiable(self, verify: int) -> int:
        """How many layers can be compared with a pass that holds the other's weights."""
        if verify:
            try:
                require_alike(self.model, self.other)
            except InputError as error:
                self.job.remark(f"Not compared with passes of the whole model: {error}")
                return 0
        return verify

    def _emit_whole(self, batch: _Batch) -> None:
        """What both models say as they are, and whether the other one is met again."""
        for column, (outputs, probability) in enumerate(batch.whole()):
            self.whole["loss"].add((column,), outputs.loss, batch.mine.batch)
            self.whole["answer"].add_texts((column,), probability, batch.mine.batch)
        found = {
            "loss": self.whole["loss"].mean()[0],
            "other_loss": self.whole["loss"].mean()[1],
            "own_answer_probability": self.whole["answer"].mean()[0],
            "other_answer_probability": self.whole["answer"].mean()[1],
        }
        self.job.emit({}, found)
        again = batch.theirs.run(batch.theirs.states[0], range(self.other.n_layers))
        self.blocks += self.other.n_layers
        distance, _ = batch.theirs_said.compare(batch.theirs.taken(again), kl)
        self.again = max(self.again, float(distance.max()))

    def _measure(self, batch: _Batch, place: int, layer: int, verified: bool) -> None:
        """One layer in every way."""
        for column, way in enumerate(self.ways):
            state = batch.swapped(way, layer)
            measured = batch.measure(state)
            for name, values in measured.items():
                add = self.means[name].add_texts if "answer" in name else self.means[name].add
                add((place, column), values, batch.mine.batch)
            if way == ALONE and verified:
                whole = batch.measure(self._naive(batch, layer))
                self.off = max(self.off, float((whole["kl"] - measured["kl"]).abs().max()))
        arrays = {name: mean.mean()[place] for name, mean in self.means.items()}
        self.job.emit({"layer": place}, arrays)

    def _naive(self, batch: _Batch, layer: int) -> Tensor:
        """The last state of a pass of the whole model that holds the other's weights in a block."""
        with ExitStack() as stack:
            stack.enter_context(self.model.present([layer]))
            own, theirs = parameters_of(self.model, layer), of_block(self.other, layer)
            point = stack.enter_context(pointed(list(own.values())))
            for name, parameter in own.items():
                given = theirs[name]
                point(parameter, given.to(device=parameter.device, dtype=parameter.dtype))
            self.blocks += self.model.n_layers
            if self.head is self.model:
                return batch.mine.without()
            return batch.mine.run(batch.begun, range(self.model.n_layers))

    def _finish(self, verify: int) -> None:
        for name, mean in self.means.items():
            low, high = mean.interval()
            self.job.emit({}, {f"{name}_low": low, f"{name}_high": high})
        self.job.note(
            passes=self.blocks / self.model.n_layers,
            method="restart from the state before the layer, through blocks of either model",
            direction=f"blocks of {self.other.name} into {self.model.name}",
            other=self.other.name,
            blocks_of_another_layer=str([self.elsewhere[layer] for layer in self.layers]),
        )
        what = "KL of the other model's prediction from its blocks run one by one"
        self.job.check("all swapped is the other", self.again, tolerance(self.other), what)
        if verify:
            what = "KL against passes of the whole model with the other's weights in the block"
            self.job.check("naive agreement", self.off, tolerance(self.model), what)


@dataclass
class _Batch:
    """Both models' passes of a batch, and what is made of them.

    Attributes
    ----------
    begun
        ``[batch, position, d_model]``, what the first block is given.
    """

    work: SwapRun
    mine: Pass
    theirs: Pass
    answers: Sequence[Any]

    def __post_init__(self) -> None:
        work, batch = self.work, self.mine.batch
        self.mine_said = Outputs(work.model, batch, self.mine.taken(self.mine.states[-1]))
        self.theirs_said = Outputs(
            work.other, self.theirs.batch, self.theirs.taken(self.theirs.states[-1])
        )
        own_ends = work.head is work.model
        self.begun = (self.mine if own_ends else self.theirs).states[0].to(self.mine.states[0])
        before = self.mine.states if own_ends else list(self._along(self._own, self.begun))
        self.before = {layer: before[layer] for layer in range(work.model.n_layers)}
        self.after = dict(enumerate(list(self._along(self._foreign, self.begun))[1:]))
        work.blocks += work.model.n_layers * (1 if own_ends else 2)
        self.places = [self._place(row) for row in range(len(batch))]
        given = [self.answers[number] for number in batch.numbers]
        at = self._at_answers(self.mine.states[-1])
        top = work.model.unembed(at).argmax(-1).tolist()
        self.ids = [
            own if text is None else work.model.token_id(text)
            for own, text in zip(top, given, strict=True)
        ]

    def _place(self, row: int) -> int:
        """Column where a text is answered."""
        tokens = self.mine.batch.tokens
        first = int(tokens.mask[row].nonzero()[0, 0])
        return first + answer_place(self.work.model, row_of(tokens, row))

    def _at_answers(self, state: Tensor) -> Tensor:
        return state[torch.arange(len(self.places)), self.places]

    def _along(self, step: Callable[[Tensor, int], Tensor], state: Tensor) -> Iterator[Tensor]:
        """A state, and those after each block."""
        yield state
        for layer in range(self.work.model.n_layers):
            state = step(state, layer)
            yield state

    def _own(self, state: Tensor, layer: int) -> Tensor:
        return self.mine.run(state, [layer])

    def _foreign(self, state: Tensor, layer: int) -> Tensor:
        """A block of the other model, which may be elsewhere or of another dtype."""
        return self.theirs.run(state.to(self.theirs.states[layer]), [layer]).to(state)

    def swapped(self, way: str, layer: int) -> Tensor:
        """The last state with other blocks at a layer, or from one end to it."""
        depth = self.work.model.n_layers
        later = range(layer + 1, depth)
        self.work.blocks += len(later) + (way not in (LEFT_OUT, BELOW))
        if way == BELOW:
            return self.mine.run(self.after[layer], later)
        state = self.before[layer]
        if way == LEFT_OUT:
            return self.mine.run(state, later)
        if way == ABOVE:
            for each in range(layer, depth):
                state = self._foreign(state, each)
            return state
        number = layer if way == ALONE else self.work.elsewhere[layer]
        return self.mine.run(self._foreign(state, number), later)

    def measure(self, state: Tensor) -> dict[str, Tensor]:
        """Every measure of a last state: of tokens ``[n]``, of the answers ``[batch]``."""
        taken = self.mine.taken(state)
        logits = self._logits
        distance, loss = self.mine_said.compare(taken, kl, logits)
        other, _ = self.theirs_said.compare(taken, kl, logits)
        return {
            "loss_change": loss - self.mine_said.loss,
            "kl": distance,
            "kl_other": other,
            "answer_probability": self._probability(logits(self._at_answers(state))),
        }

    def _logits(self, states: Tensor) -> Tensor:
        """Logits of states by the head in use."""
        head = self.work.head
        if head is self.work.model:
            return head.unembed(states)
        return head.unembed(states.to(self.theirs.states[-1])).to(states.device)

    def _probability(self, logits: Tensor) -> Tensor:
        chosen = torch.tensor(self.ids, device=logits.device).unsqueeze(1)
        return logits.float().softmax(-1).gather(1, chosen)[:, 0].double().cpu()

    def whole(self) -> Iterator[tuple[Outputs, Tensor]]:
        """What each model says by itself: its predictions, and the probability of the answers."""
        for said, model, one in (
            (self.mine_said, self.work.model, self.mine),
            (self.theirs_said, self.work.other, self.theirs),
        ):
            logits = model.unembed(self._at_answers(one.states[-1]))
            yield said, self._probability(logits)


def derangement(count: int, seed: int) -> list[int]:
    """Numbers in a random order in which none stands at its own place; of one there is none.

    Examples
    --------
    >>> derangement(4, 0)
    [2, 0, 3, 1]
    """
    order = np.random.default_rng(seed).permutation(count)
    # A cycle through all of them in a random order leaves none where it was.
    found = np.empty(count, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return [int(number) for number in found]
