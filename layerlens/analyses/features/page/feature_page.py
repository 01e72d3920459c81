"""The work of :mod:`layerlens.analyses.features.feature`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.features.activations import Places, by_head
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.analyses.features.effects import logit_effects, why_no_effects
from layerlens.analyses.features.encoded_text import EncodedText
from layerlens.analyses.features.neighbours import neighbours
from layerlens.analyses.features.page.reading import Reading, passes_of
from layerlens.analyses.features.page.spread import Example
from layerlens.analyses.features.page.steering import Steering, along, divergences
from layerlens.analyses.features.sae_metrics import CONTROL
from layerlens.analyses.lenses.fitting.documents import text_of
from layerlens.model.sites import Site
from layerlens.run.changes import Change

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

RANDOM = 32
"""Random directions whose best tokens are the control."""


@dataclass(frozen=True)
class Sizes:
    """How much is shown: examples of the top, bands, examples of each, tokens at either side."""

    top: int
    bands: int
    each: int
    around: int
    tokens: int
    near: int

    @property
    def examples(self) -> int:
        """All of them."""
        return self.top + self.bands * self.each


class Page:
    """What is known of one feature.

    Parameters
    ----------
    places, dictionary, number
        The feature.
    sizes
        How much is shown.
    reading
        What the texts say of it.
    """

    def __init__(
        self,
        job: Job,
        places: Places,
        dictionary: Dictionary,
        number: int,
        sizes: Sizes,
        reading: Reading,
    ) -> None:
        self.job, self.places, self.dictionary, self.number = job, places, dictionary, number
        self.model: LensModel = places.model
        self.sizes, self.reading = sizes, reading
        self.row = dictionary["W_dec"][number]
        self.passes = 0

    def read(self, rows: Iterable[Row], total: int | None) -> None:
        """Go through the texts; what is known so far is handed over after each pass."""
        for tokens, some in passes_of(self.model, rows):
            self.reading.see(tokens, some, self.job.tick)
            self._emit_spread()
            self._emit_examples(0, self.reading.top)
            self.job.progress(self.reading.rows, total or self.reading.rows, "texts")
        self._emit_bands()
        found = self.reading.other()
        self.job.emit({}, {"other_feature": np.array(found)})

    def _emit_spread(self) -> None:
        reading, spread = self.reading, self.reading.spread
        on = float(reading.on[self.number])
        found = {
            "count": spread.counts,
            "shuffled_count": spread.shuffled,
            "bin_top": spread.edges(),
            "density": reading.density()[self.number].numpy(),
            "shuffled_density": np.array(
                spread.shuffled.sum() / max(1, reading.counted * reading.draws)
            ),
            "largest": np.array(spread.largest),
            "firings": np.array(int(on)),
            "counted": np.array(reading.counted),
            "sparser": np.array(reading.sparser()),
        }
        shares = reading.layer_shares()
        found |= dict(zip(("layer_share", "all_layer_share"), shares, strict=True))
        self._emit(found)

    def _emit(self, found: dict[str, np.ndarray], **where: int | slice) -> None:
        """Hand over what was declared of it: shuffles and layers are not always there."""
        assert self.job.parts is not None
        known = self.job.parts.variables
        self.job.emit(where, {name: array for name, array in found.items() if name in known})

    def _emit_bands(self) -> None:
        """Examples of each band of strengths, and how many there are."""
        sizes, spread = self.sizes, self.reading.spread
        for band, found in enumerate(spread.bands(sizes.bands)):
            ends = {"band_from": found.low, "band_to": found.high, "band_count": found.count}
            self._emit({name: np.array(end) for name, end in ends.items()}, band=band)
            self._emit_examples(sizes.top + band * sizes.each, found.examples, sizes.each)

    def _emit_examples(
        self, first: int, examples: Sequence[Example], room: int | None = None
    ) -> None:
        """Put examples into their places, and say of those left over that there are none."""
        room = self.sizes.top if room is None else room
        wide = 2 * self.sizes.around + 1
        found = {
            "activation": np.full(room, np.nan, np.float32),
            **{name: np.full(room, -1, np.int32) for name in ("token", "text", "position")},
            "at_layer": np.full(room, -1, np.int32),
            "context_token": np.full((room, wide), -1, np.int32),
            "context_activation": np.full((room, wide), np.nan, np.float32),
        }
        for place, one in enumerate(examples):
            found["activation"][place] = one.activation
            found["token"][place] = one.row.ids[one.position]
            found["text"][place] = text_of(one.row)
            found["position"][place] = one.position
            found["at_layer"][place] = self.places.layers[one.layer]
            ids, values = one.window(self.sizes.around)
            found["context_token"][place], found["context_activation"][place] = ids, values
        self._emit(found, example=slice(first, first + room))

    def decode(self) -> None:
        """What it writes by its weights, and which other features write nearly the same."""
        sizes, near = self.sizes, neighbours(self.dictionary["W_dec"], self.number, self.sizes.near)
        missing = sizes.near - len(near.numbers)
        found = {
            "neighbour": _padded(near.numbers.int(), missing, -1),
            "neighbour_cosine": _padded(near.cosines, missing, torch.nan),
            "random_cosine": _padded(near.by_chance, missing, torch.nan),
        }
        if why := why_no_effects(self.model, self.places.sites[0].kind):
            self.job.remark(f"There is no effect on logits: {why}.")
            self._emit(found)
            return
        drawn = torch.randn(RANDOM, len(self.row), generator=torch.Generator().manual_seed(CONTROL))
        drawn = torch.nn.functional.normalize(drawn, dim=1) * self.row.norm()
        rows = torch.cat([self.row[None], drawn])
        tokens, scores = logit_effects(self.model, rows, sizes.tokens, self.job.tick)
        found |= {
            "effect_token": tokens[0].int().numpy(),
            "effect_score": scores[0].numpy(),
            "random_effect_score": scores[1:].mean(0).numpy(),
        }
        names, _ = logit_effects(self.model, self.dictionary["W_dec"][near.numbers], 1,
                                 self.job.tick)  # fmt: skip
        found["neighbour_token"] = _padded(names[:, 0, 0].int(), missing, -1)
        self._emit(found)

    def remove(self, draws: int) -> None:
        """At the strongest places: the text shuffled, and the next token without the feature."""
        generator = torch.Generator().manual_seed(CONTROL)
        off = 0.0
        for rank, one in enumerate(self.reading.top):
            tokens = self.job.tokens(one.row.ids)
            text = EncodedText.of(self.places, self.dictionary, tokens, self.job.tick)
            index = int(text.kept[: one.position].sum())
            alone = float(text.encode()[one.layer, index, self.number])
            off = max(off, abs(alone - one.activation) / one.activation)
            found = dict(zip(("kl_without", "other_kl_without"), self._without(one), strict=True))
            if draws:
                number = torch.tensor([self.number])
                shuffled = text.shuffled(number, draws, generator, self.job.tick)
                found["shuffled_activation"] = float(shuffled[one.layer, index, 0])
            self._emit({name: np.array(value) for name, value in found.items()}, rank=rank)
            self.passes += 2 + draws
            self.job.progress(rank + 1, len(self.reading.top), "examples")
        left = slice(len(self.reading.top), self.sizes.top)
        nothing = np.full(self.sizes.top - len(self.reading.top), np.nan, np.float32)
        names = ("kl_without", "other_kl_without", "shuffled_activation")
        self._emit(dict.fromkeys(names, nothing), rank=left)
        what = "largest difference, over the activation, of the strongest examples read alone"
        self.job.check("examples read again", off, 1e-3, what)

    @cached_property
    def other_row(self) -> Tensor | None:
        """Decoder row of the feature that is on about as often; None where there is none."""
        other = self.reading.other()
        return None if other < 0 else self.dictionary["W_dec"][other]

    def _without(self, one: Example) -> list[float]:
        """How far the next token moves, in nats, without the feature, and as far along another.

        No later token matters, so the text ends with the example; what differs from the text as it
        is begins at the layer of the example, and is run from there on.
        """
        site, written = self.places.sites[one.layer], one.activation * one.factor * self.row
        taken = [written]
        if self.other_row is not None:
            taken.append(along(self.other_row, float(written.norm())))
        changes = [Change(site, "add", -by_head(self.model, site, step), (one.position,))
                   for step in taken]  # fmt: skip
        tokens = self.job.tokens(one.row.ids[: one.position + 1])
        found = divergences(self.model, tokens, changes, self.job.tick)
        return [*found, *[np.nan] * (2 - len(found))]

    def scale(self) -> tuple[Site, float]:
        """Where is steered, and what the decoder row is multiplied by at strength 1."""
        if not self.reading.top:
            self.job.remark(
                "The feature was never on in these texts: strength 1 adds its decoder row once."
            )
            return self.places.sites[0], 1.0
        one = self.reading.top[0]
        return self.places.sites[one.layer], one.activation * one.factor

    def steer(self, prompt: Tokens, strengths: Sequence[float], steps: int) -> None:
        """Write on from a text with so much of the feature added, and of another feature."""
        site, scale = self.scale()
        found = Steering(self.model, site, prompt, steps)
        where = {"scale": np.array(scale), "steered_layer": np.array(site.block)}
        own = found.write(None)
        self._emit(where | {"own_token": _ids(own, steps)})
        for place, strength in enumerate(strengths):
            self.job.tick()
            length = strength * scale * float(self.row.norm())
            sides: dict[str, Tensor | None] = {"": strength * scale * self.row}
            sides["other_"] = None if self.other_row is None else along(self.other_row, length)
            for side, step in sides.items():
                ids = [] if step is None else found.write(step)
                moved = np.nan if step is None else found.divergence(step)
                arrays = {f"{side}steered_token": _ids(ids, steps)}
                arrays[f"{side}steer_kl"] = np.array(moved)
                self._emit(arrays, strength=place)
                self.passes += 2
            self.job.progress(place + 1, len(strengths), "strengths")
        again = found.write(0 * self.row)
        off = sum(one != two for one, two in zip(own, again, strict=False))
        off += abs(len(own) - len(again))
        self.job.check(
            "strength 0 writes what the model writes", off, 0,
            "tokens that differ where the feature is added 0 times",
        )  # fmt: skip
        self.passes += 3

    def check(self) -> None:
        """Compare counts that were kept in different ways, and the model with itself."""
        spread = self.reading.spread
        off = abs(int(spread.counts.sum()) - int(self.reading.on[self.number]))
        what = "times that the feature was on, less those that the histogram holds"
        self.job.check("no activation is lost", off, 0, what)
        if self.reading.top:
            tokens = self.job.tokens(self.reading.top[0].row.ids)
            text = EncodedText.of(self.places, self.dictionary, tokens, self.job.tick)
            off_by, allowed = text.with_error_put_back(self.job.tick)
            what = "largest difference of a logit from the model's own, with what is not decoded "
            what += "put back"
            self.job.check("with the error, the model itself", off_by, allowed, what)
            self.passes += 2 + len(self.places.sites)
        self.job.note(
            passes=self.reading.passes + self.passes,
            rows_read=self.reading.rows,
            tokens_counted=self.reading.counted // len(self.places.sites),
        )


def _padded(found: Tensor, missing: int, value: float) -> np.ndarray:
    return torch.cat([found, torch.full((missing,), value, dtype=found.dtype)]).numpy()


def _ids(found: Sequence[int], room: int) -> np.ndarray:
    return np.array([*found, *[-1] * (room - len(found))], dtype=np.int32)
