"""Transcoders that stand in for MLPs: what each reads of a text, and what it writes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.value_paths import Node
from layerlens.analyses.features.activations import special_ids
from layerlens.analyses.features.dictionaries.crossing import LATER, later_of
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.errors import InputError
from layerlens.model.sites import Site, parse_site
from layerlens.result.fitted import Fitted
from layerlens.result.opening import open_saved

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

One = Fitted | str | os.PathLike[str]
Given = One | Iterable[One]


@dataclass(frozen=True, eq=False)
class StandIn:
    """The transcoder of one layer.

    Attributes
    ----------
    read
        What it reads, a state of the stream.
    skipped
        Positions at the beginning of a text that it was not learned from.
    rows
        By layer that its features write into, its own first: its decoder ``[feature, d]``.
    code
        By the same layers, Python for the decoder.
    """

    layer: int
    read: Site
    dictionary: Dictionary
    skipped: int
    rows: Mapping[int, Tensor]
    code: Mapping[int, str]

    def rates(self, x: Tensor) -> Tensor:
        """``[position, 1]``: what states ``[position, d]`` are multiplied with to be read."""
        inside = self.dictionary.normalised(x)[0]
        centred = self._centre(x)
        square = centred.square().sum(-1, keepdim=True)
        along = (inside * centred).sum(-1, keepdim=True)
        found: Tensor = (along / square).where(square > 0, 0.0)
        return found

    def inside(self, x: Tensor, rates: Tensor) -> Tensor:
        """States as they are read, with their rates held: linear in them."""
        return self._centre(x) * rates

    def reads(self, features: Tensor, rates: Tensor) -> Tensor:
        """Directions ``[n, d]`` in states along which features read them.

        Parameters
        ----------
        rates
            ``[n, 1]``: those of the position at which each feature reads.
        """
        return self._centre(self.dictionary["W_enc"].T[features]) * rates

    def biases(self, features: Tensor) -> Tensor:
        """``[n]``: what features read where a state is zero."""
        bias, form = self.dictionary["b_enc"][features], self.dictionary.form
        if not form.centred_input:
            return bias
        return bias - self.dictionary["W_enc"].T[features] @ self.dictionary["b_dec"]

    def _centre(self, x: Tensor) -> Tensor:
        if self.dictionary.form.normalise != "layer_norm":
            return x
        return x - x.mean(-1, keepdim=True)

    @property
    def skip(self) -> Tensor | None:
        """``[o, d]``: the affine path from what is read to what is written."""
        return self.dictionary.arrays.get("W_skip")


def stand_ins(model: LensModel, given: Given | None) -> dict[int, StandIn]:
    """The transcoder of each layer that has one.

    Raises
    ------
    InputError
        Nothing was given, or something else than transcoders of this model, or two of one layer,
        or one that reads or writes elsewhere than an MLP does.
    """
    if given is None:
        raise InputError("transcoders is none: give what ll.train_transcoder returned.")
    several = [given] if isinstance(given, Fitted | str | os.PathLike) else list(given)
    found: dict[int, StandIn] = {}
    for one in several:
        fitted = open_saved(one) if isinstance(one, str | os.PathLike) else one
        if not isinstance(fitted, Fitted):
            raise InputError(
                "transcoders holds something else: give what ll.train_transcoder or ll.load_sae "
                "returned, or a list of those."
            )
        fitted.require(model, "transcoder")
        for layer, dictionary in Dictionary.by_layer(fitted).items():
            if layer in found:
                raise InputError(f"There are two transcoders of layer {layer}: give one of each.")
            found[layer] = _stand_in(model, fitted, layer, dictionary)
    return found


def _stand_in(model: LensModel, fitted: Fitted, layer: int, dictionary: Dictionary) -> StandIn:
    read = Node(layer, mlp=True).reads(model)
    site, out = fitted.options["site"], parse_site(fitted.options["site_out"]).kind
    if (site, out) != (read.kind, "mlp_out"):
        raise InputError(
            f"This transcoder reads {site} and writes {out}; a circuit of {model.name} needs ones "
            f"that read {read.kind} and write mlp_out."
        )
    dictionary = dictionary.folded()
    if dictionary.form.architecture == "gated":
        dictionary = dictionary.as_jumprelu()
    form = dictionary.form
    scaled_back = form.normalise in ("constant_norm_rescale", "layer_norm") and not form.only_in
    if scaled_back or form.token_centred:
        raise InputError(
            "This transcoder scales what it writes by what it reads, so that no feature writes by "
            "itself: a circuit needs ones without (ll.train_transcoder makes such)."
        )
    written, code = _writes(fitted, layer, dictionary)
    skipped = int(fitted.options["positions_skipped"])
    return StandIn(layer, read, dictionary, skipped, written, code)


def _writes(
    fitted: Fitted, layer: int, dictionary: Dictionary
) -> tuple[dict[int, Tensor], dict[int, str]]:
    """By layer that its features write into: the decoder, and Python for it."""
    layers, arrays = fitted.options["layers"], dictionary.arrays
    place = layers.index(layer)
    rows = {layer: arrays["W_dec"]}
    code = {layer: f"{fitted.code}['W_dec']" + (f"[{place}]" if len(layers) > 1 else "")}
    start = later_of(place, len(layers)).start
    for number, (other, later) in enumerate(
        zip(layers[place + 1 :], dictionary.later, strict=False)
    ):
        rows[other] = later
        code[other] = f"{fitted.code}['{LATER}'][{start + number}]"
    return rows, code


def taught(model: LensModel, ids: Tensor, stand_in: StandIn) -> Tensor:
    """``[position]`` bool: tokens of one text like those that it was learned from."""
    special = torch.tensor(sorted(special_ids(model)), dtype=ids.dtype)
    return (torch.arange(len(ids)) >= stand_in.skipped) & ~torch.isin(ids, special)
