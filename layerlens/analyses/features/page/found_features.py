"""Features by a token: those that are on at it in some texts, and those that raise it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Table
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contributions.token_scores import through_final_norm
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.analyses.features.effects import why_no_effects
from layerlens.analyses.features.page.reading import passes_of
from layerlens.analyses.features.replacing import Tick
from layerlens.analyses.features.sae_metrics import CONTROL
from layerlens.analyses.lenses.fitting.documents import read_rows
from layerlens.analyses.neurons.neuron_directions import token_rows
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

LISTED = 8
"""Features of each list."""
ENOUGH = 200
"""Times that the token was met, after which no more texts are read."""


def find_features(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    token: int,
    of: tuple[Dictionary, Places],
) -> Opened:
    """List the features that are on at a token, and those whose decoder rows raise its logit.

    Raises
    ------
    InputError
        There is no such token.
    """
    dictionary, places = of
    if not 0 <= token < model.d_vocab:
        raise InputError(f"There is no token {token}: ids go from 0 to {model.d_vocab - 1}.")
    word = model.token_string(token)
    tables = [_on_at(job, model, tokens, token, of)]
    if why_no_effects(model, places.sites[0].kind) is None:
        tables.append(_raising(model, dictionary["W_dec"], token, word))
    return Opened(title=f"Features by the token “{word}”", tables=tables)


def _on_at(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    token: int,
    of: tuple[Dictionary, Places],
) -> Table:
    """The features that write most at a token, beside what they are at other tokens."""
    dictionary, places = of
    rows = (row for row in read_rows(model, tokens) if token in row.ids)
    here, elsewhere = _Mean(dictionary.features), _Mean(dictionary.features)
    for some, _ in passes_of(places.model, rows):
        at = _encoded(some, of, job.tick)
        kept = places.kept(some)
        met = (some.ids == token)[kept].repeat(len(places.sites))
        here.add(at[met])
        elsewhere.add(at[~met])
        if here.count >= ENOUGH:
            break
    word = model.token_string(token)
    if not here.count:
        return Table([f"“{word}” is not in these texts, where it would count"], [])
    size = dictionary["W_dec"].norm(dim=1)
    best = (here.mean * size).topk(min(LISTED, dictionary.features)).indices.tolist()
    numbers = [number for number in best if here.mean[number] > 0]
    listed = [
        [str(n), float(here.share[n]), float(here.mean[n]), float(elsewhere.mean[n])]
        for n in numbers
    ]
    title = f"on at “{word}”, met {here.count} times"
    return Table(["feature", "share on", "mean", "elsewhere"], listed, title, _opening(numbers))


class _Mean:
    """The mean of features over activations, and how often each was on."""

    def __init__(self, features: int) -> None:
        self.count = 0
        self._sum, self._on = torch.zeros(features), torch.zeros(features)

    def add(self, values: Tensor) -> None:
        self.count += len(values)
        self._sum += values.sum(0)
        self._on += (values > 0).sum(0)

    @property
    def mean(self) -> Tensor:
        return self._sum / max(1, self.count)

    @property
    def share(self) -> Tensor:
        return self._on / max(1, self.count)


def _encoded(tokens: Tokens, of: tuple[Dictionary, Places], tick: Tick) -> Tensor:
    """``[n, feature]``: features of the tokens that count, layer after layer."""
    states = of[1].states(tokens, of[1].kept(tokens), tick)
    return torch.cat([of[0].encode(x) for x in states.unbind(1)])


def _raising(model: LensModel, rows: Tensor, token: int, word: str) -> Table:
    """The features whose decoder rows raise a token's logit most, and random rows as long."""
    drawn = torch.randn(rows.shape, generator=torch.Generator().manual_seed(CONTROL))
    drawn *= rows.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
    scores = token_score(model, rows, token)
    best = scores.topk(min(LISTED, len(rows)))
    numbers = best.indices.tolist()
    listed: list[list[object]] = [
        [str(number), score] for number, score in zip(numbers, best.values.tolist(), strict=True)
    ]
    listed.append(["random, best", float(token_score(model, drawn, token).max())])
    return Table(["feature", "score"], listed, f"raise “{word}” most", _opening(numbers))


def token_score(model: LensModel, rows: Tensor, token: int) -> Tensor:
    """What directions ``[n, d_model]`` do to the logit of one token, from the vocabulary's mean."""
    weight = token_rows(model)
    columns = through_final_norm(model, rows.T.to(weight))
    found: Tensor = ((weight[token] - weight.mean(0)) @ columns).float().cpu()
    return found


def _opening(numbers: Sequence[int]) -> list[tuple[str, dict[str, int]]]:
    return [("feature", {"feature": number}) for number in numbers]
