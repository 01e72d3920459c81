"""One text's logit, split into what every part of the model writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.contributions.logit_directions import Readout, read_out, stream_sites
from layerlens.analyses.contributions.split_sublayer import by_head, by_source, split_sublayer
from layerlens.errors import ModelError
from layerlens.model.evidence import logit_size
from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

SUBLAYERS = ("attn_out", "mlp_out")


def components(model: LensModel) -> list[Site]:
    """What writes into the stream: its first state, then each sublayer, in their order."""
    return [Site("resid_pre", 0)] + [
        Site(kind, layer)
        for layer, block in enumerate(model.anatomy.blocks)
        for kind in SUBLAYERS
        if kind in block.taps
    ]


class TextSplit:
    """One pass over one text, and the parts of one logit (or difference) of it.

    Parameters
    ----------
    tokens
        One text without padding.
    place
        The position whose next token is explained.
    sites
        What units are split by, beside what the sublayers write.
    job
        Asked at every site whether to stop.

    Attributes
    ----------
    own
        ``[vocabulary]`` float64, the model's own logits at the position.
    errors
        The largest errors found so far, in logits: of the sum, of the units in a sublayer, of the
        sources of a head.
    """

    def __init__(
        self, model: LensModel, tokens: Tokens, place: int, sites: list[Site], job: Job
    ) -> None:
        self.model = model
        self.values: dict[Site, Tensor] = {}
        self.errors: dict[str, float] = {}
        self._readout: Readout
        self._mix: Tensor

        def keep(site: Site, value: Tensor) -> None:
            job.tick()
            if site.kind == "v":
                self.values[site] = value[0].clone()
            elif site.kind == "pattern":
                self.values[site] = value[0, :, place].clone()
            else:
                self.values[site] = value[0, place].clone()

        last = place == tokens.ids.shape[1] - 1
        wanted = dict.fromkeys([*stream_sites(model), *sites])
        logits = forward(model, tokens, wanted, keep, logits="last" if last else "all")
        assert logits is not None  # the model has a head: the contract asked
        shown = logits[0, -1 if last else place]
        self.own = shown.cpu().double()
        self.share = logit_tolerance(shown.dtype)
        self.limit = self.share * logit_size(self.own)

    def explain(self, targets: list[int], *, center: bool) -> dict[str, Tensor]:
        """Split the logit of one token, or the difference of two.

        Parameters
        ----------
        targets
            The answer, or the answer and a wrong one.
        center
            Measure one logit from the mean over the vocabulary.

        Returns
        -------
        dict
            ``contribution`` ``[component + 1]``, the constant last; ``sublayer_contribution``
            ``[layer, 2]``; ``accumulated`` ``[point]``; ``logit`` and ``logit_before_cap``
            ``[target]``.

        Raises
        ------
        ModelError
            If the parts do not add up to the model's own logits.
        """
        weights = torch.zeros(len(targets) + center, len(self.own), dtype=torch.float64)
        weights[range(len(targets)), targets] = 1
        signs = [1.0, -1.0][: len(targets)]
        if center:  # a difference of two is free of the mean
            known = self.own.isfinite()  # suppressed tokens (-inf) have no share in the mean
            weights[-1] = known / known.sum()
            signs.append(-sum(signs))
        self._mix = torch.tensor(signs, dtype=torch.float64)
        self._readout = read_out(self.model, self.values, weights)
        parts = torch.stack([self._part(site) for site in components(self.model)])
        constant = self._readout.constant
        total = (parts.sum(0) + constant)[: len(targets)]
        self.limit = max(self.limit, self.share * self.own[targets].abs().max().item())
        difference = self._readout.capped(total) - self.own[targets]
        self._require("sum", difference, "cannot be split: its parts do not add up to its logits")
        return {
            **self._shapes(parts @ self._mix, constant @ self._mix),
            "logit": self.own[targets],
            "logit_before_cap": total,
        }

    def _part(self, site: Site) -> Tensor:
        """Parts ``[target]`` of what was written at a site."""
        return self._readout.along[site] @ self.values[site].cpu().double()

    def _require(self, name: str, difference: Tensor, failure: str) -> None:
        error = difference.abs().max().item()
        self.errors[name] = max(error, self.errors.get(name, 0.0))
        if not error <= self.limit:
            raise ModelError(
                f"{self.model.name} {failure}; they are off by {error:.2g} logits, allowed is "
                f"{self.limit:.2g}."
            )

    def _shapes(self, parts: Tensor, constant: Tensor) -> dict[str, Tensor]:
        """The whole split in three shapes: by component, as a table, added up point by point."""
        sites = components(self.model)
        table = torch.full((self.model.n_layers, len(SUBLAYERS)), float("nan"), dtype=torch.float64)
        for site, part in zip(sites[1:], parts[1:], strict=True):
            table[site.block, SUBLAYERS.index(site.kind)] = part
        reached = [1]
        for _, point, layer in self.model.anatomy.points()[1:]:
            halfway = point.kind == "resid_mid"
            before = [site for site in sites[1:] if site.block < layer + (not halfway)]
            reached.append(1 + len(before) + halfway)
        accumulated = constant + parts.cumsum(0)[[count - 1 for count in reached]]
        return {
            "contribution": torch.cat([parts, constant.unsqueeze(0)]),
            "sublayer_contribution": table,
            "accumulated": accumulated,
        }

    def units(self, layer: int, unit: str) -> dict[str, Tensor]:
        """Split what one sublayer adds.

        Returns
        -------
        dict
            ``head_contribution`` ``[head]`` or ``neuron_contribution`` ``[neuron]``,
            ``bias_contribution`` ``[]``, and for sources ``source_contribution``
            ``[head, source]``.

        Raises
        ------
        ModelError
            If the pieces do not add up.
        """
        kind, output = ("mlp_post", "mlp_out") if unit == "neuron" else ("z", "attn_out")
        inside, whole = self.values[Site(kind, layer)], Site(output, layer)
        directions = self._readout.along[whole]
        pulled, bias = split_sublayer(self.model, Site(kind, layer), inside.flatten(), directions)
        if kind == "z":
            name, pieces = "head_contribution", by_head(inside, pulled)
        else:
            name, pieces = "neuron_contribution", pulled * inside.cpu().double()
        failure = f"cannot be split by {unit}: the pieces do not add up to what {whole} adds"
        self._require("unit", pieces.sum(-1) + bias - self._part(whole), failure)
        found = {name: self._mix @ pieces, "bias_contribution": self._mix @ bias}
        if unit == "source":
            v, pattern = self.values[Site("v", layer)], self.values[Site("pattern", layer)]
            sources = by_source(v, pattern, pulled)
            failure = (
                "cannot be split by source, because its heads gate or norm what they gather (use "
                f"unit='head'): the pieces do not add up to the heads of layer {layer}"
            )
            self._require("source", sources.sum(-1) - pieces, failure)
            found["source_contribution"] = torch.einsum("t,ths->hs", self._mix, sources)
        return found
