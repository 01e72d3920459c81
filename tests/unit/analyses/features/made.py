"""Dictionaries that are made and not learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layerlens.analyses.features.dictionaries.dictionary import Form
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted, ModelFacts

WIDTH = 64


def fitted(model: LensModel, form: Form, arrays: dict[str, Tensor], **told: Any) -> Fitted:
    options = {"site": "resid_post", "layers": [0], "positions_skipped": 1} | told
    return Fitted("sae", arrays, ModelFacts.of(model), "", options | {"dictionary": form.told()})


def planted_words(model: LensModel) -> Fitted:
    """Feature 0 reads and writes the embedding of owl, 1 that of dog; 2 that of pig."""
    table = model.hf.get_input_embeddings().weight.detach()
    rows = table[[model.token_id(word) for word in ("owl", "dog", "pig")]]
    rows = torch.nn.functional.normalize(rows, dim=1)
    size = table.norm(dim=1).max()
    arrays = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_enc": torch.full((3,), -size * 0.7)}
    arrays |= {"b_dec": torch.zeros(WIDTH), "density": torch.tensor([0.1, 0.2, 0.3])}
    return fitted(model, Form("relu", centred_input=False), arrays, site="resid_pre")


def drawn(model: LensModel, seed: int = 0, **told: Any) -> Fitted:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(96, WIDTH, generator=generator), dim=1)
    arrays = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_enc": torch.zeros(96)}
    arrays |= {"b_dec": torch.randn(WIDTH, generator=generator) / 8}
    return fitted(model, Form("topk", k=5, normalise="layer_norm"), arrays, **told)
