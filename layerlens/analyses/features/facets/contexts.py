"""Places at which neurons are strongest, one in a text, and the state that each stands in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contributions.value_paths import Node
from layerlens.analyses.features.activations import special_ids
from layerlens.analyses.lenses.fitting.documents import text_of
from layerlens.corpus.rows import Row
from layerlens.errors import ActivationError
from layerlens.model.lensmodel import LensModel
from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.run.until import read_until


@dataclass(frozen=True, eq=False)
class Context:
    """A place in a text.

    Attributes
    ----------
    score
        By which it was chosen: the larger the better.
    value
        The neuron's activation there.
    row, position
        Where: the row of tokens, and the token.
    state
        ``[d_model]`` float32: what the MLP reads of the stream there, before its norm.
    """

    score: float
    value: float
    row: Row
    position: int
    state: Tensor

    @property
    def token(self) -> int:
        """Its token id."""
        return self.row.ids[self.position]

    @property
    def text(self) -> int:
        """Number of its text."""
        return text_of(self.row)


def written(model: LensModel, row: Row, position: int, around: int) -> str:
    """The text around a place with ``[[`` and ``]]`` around its token, after the text's number."""
    first = max(0, position - around)
    ids = row.ids[first : position + around + 1]
    words = list(model.vocabulary.split(ids)[0])
    words[position - first] = f"[[{words[position - first]}]]"
    # Some tokenizers put the spaces between words that no token holds.
    held = any(letter.isspace() for word in words for letter in word)
    apart = not held and model.tokenizer is not None and " " in model.tokenizer.decode(ids)
    return f"{text_of(row)}: {' '.join((' ' if apart else '').join(words).split())}"


class Best:
    """The best place of each of the best texts.

    Parameters
    ----------
    most
        How many texts.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[int, Context] = {}

    def offer(self, text: int, score: float, context: Callable[[], Context]) -> None:
        """Take in a place, which is made only where it belongs here; of equal ones the earlier."""
        held = self._held.get(text)
        if held is None and len(self._held) == self._most:
            worst = min(self._held, key=lambda one: (self._held[one].score, -one))
            if self._held[worst].score >= score:
                return
            del self._held[worst]
        elif held is not None and held.score >= score:
            return
        self._held[text] = context()

    def above(self, share: float) -> list[Context]:
        """The best first, as far as their scores are above a share of the largest."""
        found = sorted(self._held.values(), key=lambda one: (-one.score, one.row.number))
        least = share * found[0].score if found else 0.0
        return [one for one in found if one.score > max(0.0, least)]


class Contexts:
    """The strongest places of some neurons of a layer, and as many places drawn at random.

    Parameters
    ----------
    neurons
        Their numbers.
    most
        How many places of each, one in a text.
    side
        ``"largest"`` activations, ``"smallest"``, or those of the largest ``"magnitude"``.
    skipped
        Tokens at the beginning of each row that do not count; special ones never do.
    seed
        Of the places that are drawn.

    Attributes
    ----------
    best
        Of each neuron.
    drawn
        Places at random.
    counted, rows
        Tokens that counted, and rows.
    """

    def __init__(
        self,
        model: LensModel,
        layer: int,
        neurons: Sequence[int],
        *,
        most: int,
        side: str,
        skipped: int,
        seed: int,
    ) -> None:
        self._model, self._neurons, self._side = model, list(neurons), side
        self.sites = (Node(layer, mlp=True).reads(model), Site("mlp_post", layer))
        self._special = torch.tensor(sorted(special_ids(model)), dtype=torch.long)
        self._skipped = skipped
        self._generator = np.random.default_rng(seed)
        self.best = [Best(most) for _ in neurons]
        self.drawn = Best(most)
        self.counted = self.rows = 0

    def see(self, tokens: Tokens, rows: Sequence[Row], tick: Callable[[], None]) -> None:
        """Run a pass over some rows, as far as the layer."""
        self.rows += len(rows)
        kept = tokens.mask & (tokens.position_ids >= self._skipped)
        kept &= ~torch.isin(tokens.ids, self._special)
        self.counted += int(kept.sum())
        if not kept.any():
            return
        states, values = self._read(tokens, tick)
        places = [one.nonzero().flatten().tolist() for one in kept]
        drawn = self._generator.random((len(rows), 2))
        for row, where in enumerate(places):
            if not where:
                continue
            key, at = float(drawn[row, 0]), where[int(drawn[row, 1] * len(where))]
            self._offer(self.drawn, 0, rows[row], at, key, values[row], states[row])
            scores = self._scores(values[row, where])
            for index, (score, place) in enumerate(zip(*scores.max(0), strict=True)):
                to = self.best[index], index, rows[row], where[int(place)]
                self._offer(*to, float(score), values[row], states[row])

    def _read(self, tokens: Tokens, tick: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """States ``[row, position, d_model]`` on the model's device, activations on the CPU."""
        neurons = self.sites[1]

        def pick(site: Site, value: Tensor) -> Tensor:
            # The state may be written to later in the pass, which is not over yet.
            return value[..., self._neurons].float().cpu() if site == neurons else value.clone()

        found = read_until(self._model, tokens, self.sites, pick, tick)
        states, values = (found[site] for site in self.sites)
        if not bool(torch.isfinite(values[tokens.mask]).all()):
            raise ActivationError(
                f"The neurons' activations hold NaN or infinity at {neurons}: check the model's "
                "weights and dtype (float16 overflows where bfloat16 or float32 do not)."
            )
        return states, values

    def _scores(self, values: Tensor) -> Tensor:
        """What is largest for the strongest."""
        if self._side == "magnitude":
            return values.abs()
        return values if self._side == "largest" else -values

    @staticmethod
    def _offer(
        best: Best, index: int, row: Row, at: int, score: float, values: Tensor, states: Tensor
    ) -> None:
        def context() -> Context:
            state = states[at].float().cpu().clone()
            return Context(score, float(values[at, index]), row, at, state)

        best.offer(text_of(row), score, context)
