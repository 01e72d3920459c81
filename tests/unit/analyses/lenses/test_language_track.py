"""Probabilities of sets by depth, against plain softmaxes and a model that was written by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.lenses.language_track import language_track
from layerlens.analyses.lenses.state_energy import Energy
from layerlens.analyses.lenses.token_sets import Speller
from layerlens.errors import Cancelled, InputError
from layerlens.export.answer_meta import answer_arrays
from layerlens.model.lensmodel import LensModel
from layerlens.model.vocabulary import Vocabulary
from layerlens.result.fitted import Fitted, ModelFacts

from ..planted import WORDS, Stream, empty
from .test_generation_lens import PARTS, logprobs_by_hand, model_of, states_by_hand

TEXTS = [[5, 17, 20, 3, 90, 41], [8, 2, 63, 7], [11, 30, 9, 44, 2]]
SETS = [{"a": [4, 9, 200], "b": [17]}, {"a": [30], "b": [31, 32]}, {"a": [299, 0], "b": [5, 6]}]


def probabilities(model: LensModel, family: str, ids: list[int]) -> Tensor:
    """``[point, vocabulary]`` at the end of a text: after the embedding and each block."""
    kept: list[Tensor] = []
    blocks: Any = model.hf.get_submodule(PARTS[family][0])
    hook = blocks[0].register_forward_pre_hook(lambda _, args: kept.append(args[0][0, -1]))
    after = states_by_hand(model, family, ids)
    hook.remove()
    return logprobs_by_hand(model, family, [kept[0], *after]).exp()


@pytest.mark.parametrize("family", list(PARTS))
def test_masses_are_those_of_plain_softmaxes(family: str) -> None:
    model = model_of(family)
    found = ll.language_track(model, TEXTS, SETS)
    each = [probabilities(model, family, ids) for ids in TEXTS]
    for name in ("a", "b"):
        by_hand = [p[:, sets[name]].sum(-1) for p, sets in zip(each, SETS, strict=True)]
        mean = torch.stack(by_hand).mean(0)
        np.testing.assert_allclose(found.data.mass.sel(set=name), mean, rtol=1e-4)
        after = [p[:, s[name]].sum(-1) for p, s in zip(each, [*SETS[1:], SETS[0]], strict=True)]
        others = found.data.mass_other_texts.sel(other_set=name)
        np.testing.assert_allclose(others, torch.stack(after).mean(0), rtol=1e-4)
    entropy = torch.stack([torch.special.entr(p).sum(-1) for p in each]).mean(0)
    np.testing.assert_allclose(found.data.entropy, entropy, rtol=1e-4)
    # The end is that of the model itself, run by transformers alone.
    with torch.no_grad():
        own = [model.hf(torch.tensor([ids])).logits[0, -1].softmax(-1) for ids in TEXTS]
    own_b = np.mean([float(p[s["b"]].sum()) for p, s in zip(own, SETS, strict=True)])
    assert float(found.data.mass.sel(set="b", point="final")) == pytest.approx(own_b, rel=1e-4)
    assert found.checks.ok and len(found.checks) == 2
    drawn = {array["name"]: array for array in answer_arrays(found.data)}
    assert drawn["mass"]["unclipped"] and not drawn["entropy"]["unclipped"]
    np.testing.assert_allclose(found.data["size"], [2, 5 / 3, 7 / 3])
    np.testing.assert_allclose(found.data.chance, np.array([2, 5 / 3, 7 / 3]) / model.d_vocab)


def test_a_model_written_by_hand_goes_through_one_set_to_another() -> None:
    stream = Stream(token=WORDS, position=WORDS, out=WORDS)
    hf = empty(stream, layers=3)
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_proj.bias += stream.code("out", 3, 5.0)
        hf.transformer.h[2].mlp.c_proj.bias += stream.code("out", 7, 50.0)
    model = LensModel.wrap(hf, None, name="two steps", prove=False)
    found = ll.language_track(model, [0, 4, 9], {"latent": [3, 4], "target": [7]})

    def known(latent: float, target: float, rest: int) -> list[float]:
        features = [1.0, 1.0, rest * 0.001, latent, target]
        size = math.sqrt(sum(f * f for f in features) / stream.n + 1e-5)
        logits = np.zeros(WORDS)
        logits[3], logits[7] = 8 * latent / size, 8 * target / size
        p = np.exp(logits - logits.max())
        p /= p.sum()
        return [p[3] + p[4], p[7]]

    expected = [known(0, 0, 0), known(5, 0, 2), known(5, 0, 4), known(5, 50, 6)]
    mass = found.data.mass.sel(set=["latent", "target"]).values
    np.testing.assert_allclose(mass, expected, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(expected[0], [2 / WORDS, 1 / WORDS])
    assert mass[1, 0] > 0.99 and mass[3, 1] > 0.99
    # Where all tokens are alike, random sets have what chance says, whatever was drawn.
    random = found.data.mass.sel(set="random", point="embed")
    assert float(random) == pytest.approx(2 / WORDS)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_word_is_the_product_of_its_tokens_each_behind_the_last(family: str) -> None:
    model = model_of(family)
    spelt = {"one": [7], "three": [4, 9, 200], "end": [4, 9, 5]}

    class Words:
        bos_token_id = eos_token_id = pad_token_id = unk_token_id = None

        def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
            return spelt.get(text, [])

        def convert_ids_to_tokens(self, index: int) -> str:
            return f"t{index}"

    model = LensModel(model.hf, Words(), model.anatomy, family, model.feed)
    sets = {"a": ["one", "three"], "b": ["end"]}
    found = ll.language_track(model, TEXTS[0], sets, mode="word")
    expected = torch.zeros(2, model.n_layers + 1)
    for row, words in enumerate((["one", "three"], ["end"])):
        for word in words:
            product, text = torch.ones(model.n_layers + 1), list(TEXTS[0])
            for token in spelt[word]:
                product = product * probabilities(model, family, text)[:, token]
                text.append(token)
            expected[row] += product
    np.testing.assert_allclose(found.data.mass.sel(set=["a", "b"]), expected.T, rtol=1e-4)
    assert found.checks.ok
    first = ll.language_track(model, TEXTS[0], {"a": ["one"], "b": ["three"]})
    by_first = probabilities(model, family, TEXTS[0])[:, [7, 4]]
    np.testing.assert_allclose(first.data.mass.sel(set=["a", "b"]), by_first, rtol=1e-4)


def test_masses_of_a_partition_and_what_sets_share_sum_to_one() -> None:
    model = model_of("llama")
    low, high = list(range(160)), list(range(150, model.d_vocab))
    found = ll.language_track(model, TEXTS, {"low": low, "high": high})
    assert found.data.set.values.tolist() == ["low", "high", "shared", "random"]
    np.testing.assert_allclose(found.data.mass[:, :3].sum("set"), 1, atol=1e-5)
    np.testing.assert_allclose(found.data["size"], [150, 141, 10, 150])
    assert "in several sets" in found.data.attrs["notes"]
    # A larger set never has less.
    less = ll.language_track(model, TEXTS, {"low": low[:100]}).data.mass.sel(set="low")
    assert (less.values <= found.data.mass.sel(set="low").values + 1e-6).all()
    # Without what others have, this one has nothing.
    nothing = ll.language_track(model, TEXTS[0], {"a": [3], "b": [3, 4]})
    assert np.isnan(nothing.data.mass.sel(set="a")).all()
    assert "In 1 of 1 texts nothing of the set a is its own" in nothing.data.attrs["notes"]


def test_texts_in_one_pass_or_several_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    whole = ll.language_track(model, TEXTS, SETS).data
    monkeypatch.setattr("layerlens.analyses.lenses.set_masses.MOST_TOKENS", 6)
    parts = ll.language_track(model, TEXTS, SETS).data
    assert parts.attrs["passes"] == 3
    for name in ("mass", "mass_low", "mass_high", "mass_other_texts", "entropy", "energy"):
        np.testing.assert_allclose(whole[name], parts[name], rtol=2e-5, atol=1e-9)


def test_a_fitted_lens_is_read_at_the_points_that_it_has() -> None:
    model = model_of("llama")
    bias = torch.full((model.d_model,), 0.3)
    lens = Fitted("bias_lens", {"1_post.bias": bias}, ModelFacts.of(model), data="")
    found = ll.language_track(model, TEXTS[0], {"a": [4, 9]}, lens=lens).data
    assert found.point.values.tolist() == ["1_post", "final"]
    state = states_by_hand(model, "llama", TEXTS[0])
    by_hand = logprobs_by_hand(model, "llama", [state[1] + bias, state[2]]).exp()[:, [4, 9]]
    np.testing.assert_allclose(found.mass.sel(set="a"), by_hand.sum(-1), rtol=1e-4)


@pytest.mark.parametrize("family", list(PARTS))
def test_energy_is_the_papers(family: str) -> None:
    model = model_of(family)
    found = ll.language_track(model, TEXTS[0], {"a": [4]}).data
    norm = model.hf.get_submodule(PARTS[family][1])
    weight = model.hf.get_output_embeddings().weight.detach().double()
    gain = norm.weight.detach().double() + (family == "gemma2")
    rows = weight * gain
    states = torch.stack(states_by_hand(model, family, TEXTS[0])).double()
    if family == "gpt2":  # a layer norm reads what differs from the mean
        rows, states = (each - each.mean(-1, keepdim=True) for each in (rows, states))
    rows, states = (each / each.norm(dim=-1, keepdim=True) for each in (rows, states))
    energy = (states @ rows.T).square().mean(-1).sqrt() / (rows @ rows.T).square().mean().sqrt()
    np.testing.assert_allclose(found.energy[1:], energy, rtol=1e-3)


def test_energy_of_rows_that_are_known() -> None:
    def energy(rows: Tensor) -> Energy:
        rows = rows / rows.norm(dim=-1, keepdim=True)
        width = rows.shape[1]
        return Energy(rows.T @ rows / len(rows), torch.ones(width), torch.zeros(width))

    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    orthonormal = energy(torch.eye(8))
    torch.testing.assert_close(orthonormal(x), torch.ones(5))
    assert orthonormal.at_random == pytest.approx(1)
    alike = energy(torch.ones(3, 1) * x[0])
    torch.testing.assert_close(alike(x), torch.cosine_similarity(x, x[:1]).abs())


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and some longer pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "f"), ("Ġf", "l"), ("f", "l"), ("fl", "e"), ("Ã", "ī")]
    pieces = [*alphabet, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def test_how_a_word_begins() -> None:
    words = tokenizer()
    vocabulary = Vocabulary(words, len(words))

    def begin(mode: str, word: str) -> set[str]:
        return {"".join(vocabulary.split(said)[0]) for said in Speller(vocabulary, mode)(word)}

    assert begin("first_token", "fleur") == {"fle", " fl"}
    assert begin("word", "fleur") == {"fleur", " fleur"}
    assert begin("prefix", "fleur") == {"f", "fl", "fle", " f", " fl"}
    assert begin("prefix", "É") == {"\\xc3", "É"}  # its first byte, and itself
    given = {"French": ["fleur"], "English": ["flower"]}
    sets = Speller(vocabulary, "first_token").sets(given)
    assert [vocabulary.string(said[0]) for said in sets.shared] == [" fl"]
    longer = Speller(vocabulary, "word").sets({"one": ["sun"], "other": ["sunny", "moon"]})
    assert len(longer.within) == 2 and len(longer.sets["other"]) == 2


def test_prompts_ask_for_what_tells_languages_apart() -> None:
    asked = ll.translation_prompts("French", "German", also=["English"], shots=2)
    assert len(asked.texts) == len(asked.sets) > 25
    assert "Hand" in asked.left_out and "Wind" in asked.left_out
    for text, sets in zip(asked.texts, asked.sets, strict=True):
        lines = text.split("\n")
        assert len(lines) == 3 and all(line.startswith('Français: "') for line in lines)
        assert lines[-1] == f'Français: "{sets["French"][0]}" - Deutsch: "'
        assert sets["German"][0] not in text and sets["English"][0] not in sets["German"][0]
    again = ll.translation_prompts("French", "German", also=["English"], shots=2)
    assert asked == again
    for wrong in (("Klingon", "German"), ("French", "Klingon")):
        with pytest.raises(InputError, match="Klingon"):
            ll.translation_prompts(*wrong)
    with pytest.raises(InputError, match="shots is 99"):
        ll.translation_prompts("French", "German", shots=99)


WRONG: dict[str, dict[str, Any]] = {
    "expected a name to words": {"sets": ["dog"]},
    "has 2 entries for 1 text": {"sets": [{"a": [1]}, {"a": [2]}]},
    "same names": {"texts": ["cat", "dog"], "sets": [{"a": [1]}, {"b": [1]}]},
    "cannot be called 'random'": {"sets": {"random": ["dog"]}},
    "cannot be said": {"sets": {"a": ["Donaudampfschiff"]}},
    "holds words and token ids": {"sets": {"a": [1.5]}},
    "expected words or token ids": {"sets": {"a": []}},
    "does not exist in the head": {"sets": {"a": [10**6]}},
    "did you mean 'word'": {"sets": {"a": ["dog"]}, "mode": "words"},
}


@pytest.mark.parametrize("words", list(WRONG))
def test_what_does_not_fit_is_said(words: str) -> None:
    model, options = ll.load("toy:induction"), dict(WRONG[words])
    with pytest.raises(InputError, match=words):
        ll.language_track(model, options.pop("texts", "cat dog"), **options)


def test_stopped_it_keeps_the_points_that_it_has_reached() -> None:
    class Stopper(Silent):
        seen = 0

        def on_emit(self, where: Any, arrays: Any) -> None:
            self.seen += "point" in where

        def cancelled(self) -> bool:
            return self.seen >= 2

    with pytest.raises(Cancelled) as stop:
        language_track.run(model_of("llama"), TEXTS, {"sets": SETS}, Stopper())
    mass = stop.value.partial.data.mass.sel(set="a")
    assert np.isfinite(mass[:2]).all() and np.isnan(mass[2:]).all()


def test_the_estimate_counts_what_is_fed() -> None:
    model = model_of("llama")
    work = language_track.work(model, TEXTS, sets=SETS)
    assert (work.passes, work.tokens, work.head_rows) == (1, 15, 4 * 3)
