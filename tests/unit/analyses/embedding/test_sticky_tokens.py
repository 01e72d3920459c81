"""Sticky tokens: a planted one, plain PyTorch, and what folders say of pooling."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.contract.split import split_texts
from layerlens.analyses.embedding.inserting import with_token
from layerlens.analyses.embedding.pooling import pooling_of
from layerlens.analyses.embedding.stickiness import pairs_below
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel

from .. import by_hooks

TEXTS = [[5, 17, 20], [8, 3, 61, 7], [9, 44], [2, 70, 71, 72], [30, 31], [12, 13, 14], [6, 80], [1]]
PLANTED, LONG = 90, 100.0


def halves_of(texts: list[list[int]], seed: int) -> list[int]:
    """Which texts are held out."""
    return list(split_texts([None] * len(texts), seed, 0.5).test)


def planted() -> tuple[LensModel, float]:
    """An encoder that only embeds, with a token as near to every text as texts are on average."""
    model = by_hooks.wrapped("llama")
    torch.manual_seed(0)
    common, spread = sqrt(0.3), sqrt(0.7)
    vectors = torch.nn.functional.normalize(torch.randn(model.d_vocab_in, model.d_model), dim=1)
    vectors[:, :2] = 0
    vectors = spread * torch.nn.functional.normalize(vectors, dim=1)
    vectors[:12, 0] = common  # the texts, of one token each
    cosines = vectors[:12] @ vectors[:12].T
    mean = float(cosines[np.triu_indices(12, 1)].mean())
    vectors[PLANTED] = 0
    vectors[PLANTED, :2] = LONG * torch.tensor([mean / common, sqrt(1 - (mean / common) ** 2)])
    with torch.no_grad():
        model.hf.get_input_embeddings().weight.copy_(vectors)
        for block in by_hooks.blocks(model.hf):  # nothing is added to the embedding
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    model.hf.get_submodule("model").norm = torch.nn.Identity()  # so that it is longer than texts
    return model, mean


def test_a_planted_token_pulls_every_pair_and_is_found() -> None:
    model, mean = planted()
    texts = [[word] for word in range(12)]
    found = ll.sticky_tokens(
        model, texts, pooling="mean", candidates=[40, PLANTED, 50], insertions=3, verify_pairs=5
    )
    assert found.checks.ok
    data = found.data
    assert int(data.token_id[0]) == PLANTED and str(data.verdict.values[0]) == "sticky"
    assert float(data.share[0]) == 1 and int(data.sticky) == 1 and int(data.sticky_chance) == 0
    assert float(data.mean_similarity) == pytest.approx(mean, abs=1e-5)
    # e_i . x = mean for all i: with n of them of length L it is (s + n L mean) / |e_i + n L x|.
    own = model.hf.get_input_embeddings().weight[:12].detach()
    cosines = (own @ own.T).double().numpy()
    pairs = pairs_below(cosines, halves_of(texts, 0), mean, 5)
    wanted = [
        float((pairs.similarity + n * mean).mean()) / sqrt(1 + n * n + 2 * n * mean)
        for n in (0, LONG, 2 * LONG, 3 * LONG)
    ]
    assert data.similarity.isel(inserted=0).values.tolist() == pytest.approx(wanted, abs=1e-5)


def vector(model: LensModel, row: list[int]) -> Tensor:
    with torch.no_grad():
        states = model.hf.base_model(torch.tensor([row])).last_hidden_state[0]
    mean: Tensor = states.double().mean(0)
    return mean / mean.norm()


def test_shares_are_those_of_plain_passes() -> None:
    model = by_hooks.wrapped("gpt2")
    found = ll.sticky_tokens(
        model, TEXTS, pooling="mean", candidates=[40, 55], insertions=2, verify_pairs=2, seed=1
    )
    data = found.data
    vectors = torch.stack([vector(model, row) for row in TEXTS])
    cosines = (vectors @ vectors.T).numpy()
    mean = cosines[np.triu_indices(len(TEXTS), 1)].mean()
    pairs = pairs_below(cosines, halves_of(TEXTS, 1), mean, 2)
    for place, token in enumerate(data.token_id.values.tolist()):
        share, curve = [], []
        for number, (kept, altered) in enumerate(zip(pairs.kept, pairs.altered, strict=True)):
            text, before = TEXTS[altered], cosines[kept, altered]
            anywhere = with_token(text, token, 2, frozenset(), 1 + number)[2]
            for weight, rows in (
                (4 / 11, [[token, *text], [token, token, *text]]),
                (4 / 11, [[*text, token], [*text, token, token]]),
                (3 / 11, anywhere),
            ):
                after = [float(vector(model, row) @ vectors[kept]) for row in rows]
                share.append(weight * (abs(np.mean(after) - mean) < abs(before - mean)))
                curve.append([weight * one for one in (before, *after)])
        assert float(data.share[place]) == pytest.approx(sum(share) / len(pairs))
        wanted = np.sum(curve, 0) / len(pairs)
        np.testing.assert_allclose(data.similarity[:, place], wanted, atol=1e-5)


def test_attention_and_pull_of_a_layer_are_the_model_s_own() -> None:
    model = by_hooks.wrapped("gpt2")
    data = ll.sticky_tokens(
        model, TEXTS, pooling="mean", candidates=[40], insertions=2, verify_pairs=1
    ).data
    held = halves_of(TEXTS, 0)
    states = torch.stack([vector(model, row) for row in TEXTS])
    pairs = pairs_below((states @ states.T).numpy(), held, float(data.mean_similarity), 1)
    text = TEXTS[int(pairs.altered[0])]

    def read(row: list[int]) -> tuple[Tensor, Tensor]:
        trace = ll.record(model, row, ["resid_post.1", "pattern.1"])
        mean = trace["resid_post.1"][0].double().mean(0)
        return mean / mean.norm(), trace["pattern.1"][0]

    corpus = torch.stack([read(row)[0] for row in TEXTS]).mean(0)
    (before, _), (after, pattern) = read(text), read([40, 40, *text])
    pull = float((after - before) @ corpus / corpus.norm())
    assert float(data.pull.sel(layer=1)[0]) == pytest.approx(pull, abs=1e-5)
    taken = float(pattern[:, 2:, :2].sum(-1).mean())
    assert float(data.attention.sel(layer=1)[0]) == pytest.approx(taken, abs=1e-5)


def test_a_folder_says_how_it_pools(tmp_path: Path) -> None:
    model = by_hooks.wrapped("gpt2")
    model.hf.config.name_or_path = str(tmp_path)
    with pytest.raises(InputError, match="does not say"):
        pooling_of(model, None)
    (tmp_path / "1_Pooling").mkdir()
    said = tmp_path / "1_Pooling" / "config.json"
    said.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert pooling_of(model, None) == "first" and pooling_of(model, "mean") == "mean"
    said.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(InputError, match="pools by pooling_mode_max_tokens"):
        pooling_of(model, None)
    said.write_text(json.dumps({"pooling_mode": "lasttoken"}))
    assert pooling_of(model, None) == "last"
    parts = [{"type": "sentence_transformers.models.Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(InputError, match="a Dense behind its pooling"):
        pooling_of(model, None)


def test_what_does_not_fit_is_refused() -> None:
    model = by_hooks.wrapped("gpt2")
    for given, options, words in (
        (TEXTS, {"pooling": "max"}, "pooling is 'max'"),
        (TEXTS, {"insertions": 0}, "insertions is 0"),
        ([*TEXTS, TEXTS[0]], {}, "are the same"),
        (TEXTS, {"candidates": []}, "candidates is"),
        (TEXTS, {"candidates": model.d_vocab_in}, "to compare"),
    ):
        with pytest.raises(InputError, match=words):
            ll.sticky_tokens(model, given, **{"pooling": "mean", "insertions": 1, **options})
