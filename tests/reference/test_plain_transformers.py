"""The lens of the default model against plain transformers and six lines of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll

TEXT = "In 1492, Columbus sailed the ocean blue. 日本 and 🚀 too."


@pytest.fixture
def model(default_model: ll.LensModel) -> ll.LensModel:
    return default_model


def test_every_block_output(model: ll.LensModel) -> None:
    lens = ll.logit_lens(model, TEXT, top_k=3).data
    ids = torch.tensor([model.tokenizer.encode(TEXT)])
    with torch.inference_mode():
        output = model.hf(ids, output_hidden_states=True)
        final = output.logits[0].double().log_softmax(-1)
        for layer in range(model.n_layers - 1):  # transformers norms the last one itself
            state = output.hidden_states[layer + 1]
            logits = model.hf.lm_head(model.hf.model.norm(state))[0].double()
            log_p = logits.log_softmax(-1)
            row = lens.sel(point=f"{layer}_post")
            top = log_p.topk(3)
            np.testing.assert_array_equal(row.token_id, top.indices)
            np.testing.assert_allclose(row.probability, top.values.exp(), atol=1e-5)
            entropy = -(log_p.exp() * log_p).sum(-1)
            np.testing.assert_allclose(row.entropy, entropy, atol=1e-3)
            kl = (final.exp() * (final - log_p)).sum(-1)
            np.testing.assert_allclose(row.kl_to_final, kl, atol=1e-3, rtol=1e-4)
            following = ids[0, 1:]
            chosen = log_p[:-1].gather(-1, following[:, None])[:, 0]
            np.testing.assert_allclose(row.cross_entropy[:-1], -chosen, atol=1e-3)
            rank = 1 + (logits[:-1] > logits[:-1].gather(-1, following[:, None])).sum(-1)
            np.testing.assert_allclose(row["rank"][:-1], rank, atol=0.5)


def test_last_row_is_the_models_own_output(model: ll.LensModel) -> None:
    lens = ll.logit_lens(model, TEXT, top_k=5).data.sel(point="final")
    ids = torch.tensor([model.tokenizer.encode(TEXT)])
    with torch.inference_mode():
        top = model.hf(ids).logits[0].softmax(-1).topk(5)
    np.testing.assert_array_equal(lens.token_id, top.indices)
    np.testing.assert_allclose(lens.probability, top.values, rtol=2e-4)
