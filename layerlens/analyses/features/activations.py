"""The activations that a dictionary reads: streamed from texts, each token's at its sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS
from layerlens.corpus.rows import Row
from layerlens.corpus.shard import batches
from layerlens.errors import ActivationError, InputError
from layerlens.model.sites import GLOBAL, HEADS, Site, parse_site
from layerlens.run.until import read_until

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


@dataclass(frozen=True)
class Places:
    """Which activations of a model are read.

    Attributes
    ----------
    model
        Whose.
    sites
        One kind of site in one or several layers, ascending.
    skipped
        Tokens at the beginning of each row that are left out.
    """

    model: LensModel
    sites: tuple[Site, ...]
    skipped: int

    @classmethod
    def of(
        cls, model: LensModel, kind: str, layers: Sequence[int] | int | str, skipped: int
    ) -> Places:
        """Check a kind of site and layers.

        Raises
        ------
        InputError
            The site has no layer, has heads other than ``z``, or ``skipped`` is below 0.
        """
        site = parse_site(kind)
        plain = site.layer is None and site.head is None and site.kind not in GLOBAL
        if not plain or (site.kind in HEADS and site.kind != "z"):
            raise InputError(
                f"site is {kind!r}; expected a kind of site with one activation a token, such as "
                "'resid_post' or 'z' (heads side by side), and the layers in layers=."
            )
        if skipped < 0:
            raise InputError(f"positions_skipped is {skipped}; expected a number from 0.")
        if isinstance(layers, str) and layers != "all":
            raise InputError(f"layers is {layers!r}; expected numbers, or 'all'.")
        chosen = model.layers(None if layers == "all" else layers)
        sites = tuple(Site(site.kind, layer) for layer in sorted(set(chosen)))
        for one in sites:
            model.anatomy.tap(one)
        return cls(model, sites, skipped)

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers."""
        return sorted({site.block for site in self.sites})

    @cached_property
    def width(self) -> int:
        """Entries of an activation; of heads side by side found by a pass over one token."""
        if self.sites[0].kind != "z":
            return self.model.d_model
        probe = Places(self.model, self.sites[:1], 0)
        apart = special_ids(self.model)
        word = next(index for index in range(self.model.d_vocab_in) if index not in apart)
        return int(next(probe.read([Row(0, [word])], lambda: None)).shape[-1])

    def kept(self, tokens: Tokens) -> Tensor:
        """``[batch, position]`` bool: tokens that count, without special ones and the first."""
        special = torch.tensor(sorted(special_ids(self.model)), dtype=tokens.ids.dtype)
        apart = torch.isin(tokens.ids, special)
        return tokens.mask & (tokens.position_ids >= self.skipped) & ~apart

    def read(self, rows: Iterable[Row], tick: Callable[[], None]) -> Iterator[Tensor]:
        """Activations of the tokens that count, ``[n, layer, width]`` float32, pass by pass."""
        for tokens, _ in batches(self.model, list(rows), BATCH_TOKENS):
            kept = self.kept(tokens)
            if kept.any():
                yield self.states(tokens, kept, tick)

    def states(self, tokens: Tokens, kept: Tensor, tick: Callable[[], None]) -> Tensor:
        """Activations ``[n, layer, width]`` float32 of some tokens of a pass, which ends there.

        Raises
        ------
        ActivationError
            They hold NaN or infinity.
        """

        def pick(_: Site, value: Tensor) -> Tensor:
            return flat(value)[kept.to(value.device)].float().cpu()

        found = read_until(self.model, tokens, self.sites, pick, tick)
        states = torch.stack([found[site] for site in self.sites], 1)
        if not bool(torch.isfinite(states).all()):
            raise ActivationError(
                f"The model's activations hold NaN or infinity at {self.sites[0].kind}: check its "
                "weights and dtype (float16 overflows where bfloat16 or float32 do not)."
            )
        return states


def special_ids(model: LensModel) -> set[int]:
    """Ids of the tokenizer's special tokens; none without a tokenizer."""
    return set(getattr(model.tokenizer, "all_special_ids", ()))


def flat(value: Tensor) -> Tensor:
    """``[batch, position, width]``: heads stand side by side."""
    return value.flatten(2) if value.dim() == 4 else value


def by_head(model: LensModel, site: Site, row: Tensor) -> Tensor:
    """A direction ``[width]`` at a site as it is added there: ``[head, width]`` of ``z``."""
    if site.kind != "z":
        return row
    found: Tensor = row.unflatten(0, (model.anatomy.blocks[site.block].n_heads, -1))
    return found
