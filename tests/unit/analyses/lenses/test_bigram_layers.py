"""Bigrams by depth, against plain torch and against a model that is a bigram model."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import rms_norm
from transformers import LlamaConfig, LlamaForCausalLM

import layerlens as ll
from layerlens.analyses.contract.split import split_texts
from layerlens.analyses.lenses.bigram_counts import Bigrams
from layerlens.analyses.lenses.bigram_reading import shuffled
from layerlens.analyses.lenses.blocks_alone import orders
from layerlens.analyses.lenses.state_maps import moment_bytes, within
from layerlens.corpus.rows import Row
from layerlens.errors import InputError, MemoryLimitError
from layerlens.model.lensmodel import LensModel

from ..conftest import build

WORDS, ALPHA = 12, 0.5


def chain(texts: int, length: int, words: int) -> list[list[int]]:
    """Texts in which the next token depends on the present one."""
    random = np.random.default_rng(3)
    step = random.dirichlet(np.full(words, 0.3), size=words)
    found = []
    for _ in range(texts):
        text = [int(random.integers(words))]
        while len(text) < length:
            text.append(int(random.choice(words, p=step[text[-1]])))
        found.append(text)
    return found


TEXTS = chain(10, 20, WORDS)
SPLIT = split_texts([None] * len(TEXTS), 0, 0.5)


def probabilities() -> np.ndarray:
    """``[present, next]`` counted by hand on the texts that are not measured."""
    counts = np.full((WORDS, WORDS), ALPHA)
    for text in SPLIT.train:
        for pair in pairwise(TEXTS[text]):
            counts[pair] += 1
    return counts / counts.sum(1, keepdims=True)


def bigram_model() -> LensModel:
    """Two blocks that write nothing, and a head that says ``log P(next | present)``."""
    config = LlamaConfig(
        hidden_size=WORDS,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=WORDS,
        max_position_embeddings=64,
        rms_norm_eps=1e-12,
        tie_word_embeddings=False,
    )
    hf = LlamaForCausalLM(config).eval()
    model = LensModel.wrap(hf, None, name="a bigram model", prove=False)
    with torch.no_grad():
        hf.model.embed_tokens.weight.copy_(torch.eye(WORDS))
        hf.lm_head.weight.copy_(torch.from_numpy(np.log(probabilities()).T) / WORDS**0.5)
        for layer in hf.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


def test_a_bigram_model_correlates_perfectly_wherever_its_pairs_stand() -> None:
    options = {"smoothing": "add", "alpha": ALPHA, "input_lens": True, "rotation": True}
    found = ll.bigram_layers(bigram_model(), TEXTS, **options)
    data = found.data
    r, names = data.correlation, ["bigram, text", "unigram, text"]
    assert r.model.values.tolist()[:2] == names
    np.testing.assert_allclose(r[:, [0, 2]], 1, atol=1e-5)
    assert float(r[:, [1, 3]].max()) < 0.9
    np.testing.assert_allclose(data.ce, float(data.counted_ce.sel(against="bigram")), rtol=1e-5)
    np.testing.assert_allclose(data.alone_correlation.sel(against="bigram"), 1, atol=1e-5)
    # What was read is still there, and nothing turns, until another token's state is asked for.
    np.testing.assert_array_equal(data.input_recall, 1)
    np.testing.assert_allclose(data.rotation.sel(turn="state")[1:], 0, atol=1e-6)
    assert (data.rotation.sel(turn="shuffled")[1:] > 0.5).all()
    assert found.checks.ok and len(found.checks) == 3


def test_numbers_are_those_of_plain_torch() -> None:
    model = build("llama")
    found = ll.bigram_layers(model, TEXTS, points=["0_post", "1_post"], alone=1).data
    counted = Bigrams([TEXTS[t] for t in SPLIT.train], model.d_vocab, "backoff", 0.1)
    hf = model.hf
    surprisals, other, current, following = [], [], [], []
    for text in SPLIT.test:
        ids = torch.tensor(TEXTS[text])
        state = states(model, ids)
        log_p = (rms(hf, state) @ hf.lm_head.weight.T).log_softmax(-1)[1:-1]
        surprisals += (-log_p.gather(1, ids[2:, None])[:, 0]).tolist()
        other += [-np.log(counted.behind(a)[b]) for a, b in pairwise(TEXTS[text][1:])]
        order = log_p.argsort(-1, descending=True)
        current += (order[:, :5] == ids[1:-1, None]).any(-1).tolist()
        following += (order[:, :5] == ids[2:, None]).any(-1).tolist()
    here = found.sel(context="text", point="1_post")
    assert float(here.ce) == pytest.approx(np.mean(surprisals), rel=1e-4)
    r = np.corrcoef(surprisals, other)[0, 1]
    assert float(here.correlation.sel(model="bigram, text")) == pytest.approx(r, abs=1e-4)
    recall = found.recall.sel(top=5, point="1_post")
    assert float(recall.sel(token="current")) == pytest.approx(np.mean(current), abs=1e-6)
    assert float(recall.sel(token="next")) == pytest.approx(np.mean(following), abs=1e-6)


def states(model: LensModel, ids: torch.Tensor) -> torch.Tensor:
    """After block 1, ``[position, d_model]``."""
    kept: list[torch.Tensor] = []
    hook = model.hf.model.layers[2].register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        model.hf(ids[None])
    hook.remove()
    return kept[0][0]


def rms(hf: LlamaForCausalLM, state: torch.Tensor) -> torch.Tensor:
    return rms_norm(state, state.shape[-1:], hf.model.norm.weight, hf.config.rms_norm_eps)


def test_the_first_block_alone_is_a_model_without_the_others() -> None:
    model = build("llama")
    found = ll.bigram_layers(model, TEXTS, points="embed", alone=1).data
    assert found.kept.values.tolist() == ["no block", "0", "2", "0, 2", "0-2"]
    model.hf.model.layers = model.hf.model.layers[:1]
    loss = []
    for text in SPLIT.test:
        ids = torch.tensor([TEXTS[text]])
        with torch.no_grad():
            log_p = model.hf(ids, use_cache=False).logits[0, 1:-1].log_softmax(-1)
        loss += (-log_p.gather(1, ids[0, 2:, None])).flatten().tolist()
    assert float(found.alone_ce.sel(kept="0")) == pytest.approx(np.mean(loss), rel=1e-4)


def test_an_input_lens_reads_every_token_of_an_embedding_and_few_of_random_states() -> None:
    found = ll.bigram_layers(build("llama"), TEXTS, input_lens=True, alone=0).data
    recall = found.input_recall.sel(top=1)
    assert float(recall.sel(point="embed")) == 1 and float(recall.min()) < 1
    assert "rotation" not in found and "alone_ce" not in found


def test_shuffled_pairs_are_the_same_pairs() -> None:
    row = Row(7, list(range(100, 121)))
    for begin in (1, 2):
        mixed = shuffled(row, begin, 0).ids
        starts = range(begin, len(row.ids) - 1, 2)
        assert mixed[:begin] == row.ids[:begin] and Counter(mixed) == Counter(row.ids)
        pairs = {(row.ids[at], row.ids[at + 1]) for at in starts}
        assert {(mixed[at], mixed[at + 1]) for at in starts} == pairs
        assert mixed != row.ids


def test_counted_probabilities_are_those_of_the_formulas() -> None:
    rows = [[0, 1, 0, 1, 0, 2], [3, 0, 1]]
    off = Bigrams(rows, 5, "backoff", 1.0)
    alone = (np.array([4, 3, 1, 1, 0]) + 1) / (9 + 5)
    np.testing.assert_allclose(off.alone(np.arange(5)), alone)
    # Behind 0: three times 1, once 2; 4 was never seen, and 2 only at the end.
    expected = 0.75 * 2 / 4 * alone + np.array([0, 2.25, 0.25, 0, 0]) / 4
    np.testing.assert_allclose(off.behind(0), expected)
    np.testing.assert_allclose([off.behind(4), off.behind(2)], [alone, alone])
    added = Bigrams(rows, 5, "add", 1.0)
    np.testing.assert_allclose(added.behind(0), np.array([1, 4, 2, 1, 1]) / 9)
    assert set(off.draw(50, (0, 1)).tolist()) <= {0, 1, 2, 3}


def test_options_that_do_not_fit_are_refused() -> None:
    model = build("llama")
    for wrong in ({"smoothing": "katz"}, {"alpha": 0.0}, {"alone": 4}, {"positions_skipped": 40}):
        with pytest.raises(InputError):
            ll.bigram_layers(model, TEXTS, **wrong)
    with pytest.raises(MemoryLimitError, match="leave input_lens"):
        within(model, count=3, maps=2, limit=moment_bytes(model))
    assert list(orders(2, 1)) == ["no block", "0", "1", "0-1"]


def test_little_memory_gives_the_same_maps_in_more_passes() -> None:
    model = build("llama")
    options = {"input_lens": True, "rotation": True, "alone": 0}
    much = ll.bigram_layers(model, TEXTS, **options)
    little = ll.bigram_layers(model, TEXTS, **options, memory_limit=50_000)
    assert little.data.attrs["passes"] > much.data.attrs["passes"]
    np.testing.assert_array_equal(little.data.input_recall, much.data.input_recall)
    np.testing.assert_allclose(
        little.data.rotation.sel(turn="state"), much.data.rotation.sel(turn="state"), atol=1e-5
    )
    asked = ll.bigram_layers.estimate(model, TEXTS, **options)
    assert asked.passes == pytest.approx(0.5 * 3 + 0.5 * 2)
