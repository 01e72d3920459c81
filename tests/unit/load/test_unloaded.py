"""What a model that is not loaded is known to be, against the same model loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import GPT2Config, LlamaConfig, MixtralConfig, ViTConfig

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_config, tiny_model
from layerlens.model.twin import twin_of
from layerlens.model.unloaded import Unloaded, unloaded

from ..analyses.small_calls import NAMES, ONE, arguments, small_sae

WIDE = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "vocab_size": 77}
NEEDS_NUMBERS = {
    "clamp",  # asks how wide the neurons of a layer are, in a pass
    *("feature", "feature_circuit", "features", "probe_steering", "sae_metrics"),
    "token_dispositions",  # and these, whether what was fitted was fitted on these weights
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("unloaded")
    tiny_model("llama", **WIDE).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LensModel:
    with pytest.warns(UserWarning, match="no tokenizer"):
        return ll.load(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Unloaded:
    with pytest.warns(UserWarning, match="no tokenizer"):
        return unloaded(folder)


def test_its_parts_and_sizes_are_those_of_the_loaded_model(
    model: Unloaded, loaded: LensModel
) -> None:
    own = loaded.anatomy
    plain = [
        replace(b, taps={kind: replace(tap, columns=None) for kind, tap in b.taps.items()})
        for b in own.blocks
    ]
    assert model.anatomy == replace(own, blocks=tuple(plain))
    assert (model.n_heads, model.n_kv_heads, model.d_model, model.d_vocab) == (6, 3, 48, 77)
    assert model.twin is not None
    assert model.twin.d_model == 32  # so that no width was the twin's by chance
    assert model.proof is None
    assert model.bidirectional == loaded.bidirectional


def test_every_analysis_counts_the_same_or_refuses_in_words(
    model: Unloaded, loaded: LensModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerlens.model.unloaded.unloaded", lambda _: model)
    speed = "layerlens.analyses.contract.estimate.product_speed"  # it is timed elsewhere
    monkeypatch.setattr(speed, lambda kind, rows=64: 1e9)
    refused = set()
    for name in NAMES:
        texts, options = arguments(name, loaded)
        try:
            found = ll.estimate(name, folder, *texts, **options)
        except ll.ModelError as error:
            refused.add((name, "load it with ll.load" in str(error)))
            continue
        expected = registry.get(name).work(loaded, *texts, **options)
        assert (found.passes, found.bytes) == (expected.passes, expected.bytes), name
        assert "proven" in found.how
    assert refused == {(name, True) for name in NEEDS_NUMBERS}


def test_the_seconds_are_near_those_of_the_loaded_model(loaded: LensModel, folder: Path) -> None:
    long = [5, 9, 1, 3] * 16
    with pytest.warns(UserWarning, match="no tokenizer"):
        found = ll.estimate("logit_lens", folder, long)
    # Another product is timed, on a machine that does other things too.
    assert 1e-2 < found.seconds / ll.estimate("logit_lens", loaded, long).seconds < 1e2


def test_a_published_size_follows_from_the_configuration_alone() -> None:
    config = LlamaConfig()  # Llama-2-7B
    plan = ll.estimate(config, tokens=8, dtype="bfloat16")
    assert plan.parameters == 6_738_415_616
    assert plan.bytes == 2 * plan.parameters
    assert plan.cache_bytes == 2 * 32 * 4096 * 8 * 2  # keys and values of 32 layers, two bytes each
    assert plan.stored == {}


@pytest.mark.parametrize("config", [MixtralConfig(num_hidden_layers=2), GPT2Config(n_layer=2)])
def test_a_twin_is_small_and_of_the_same_make(config: MixtralConfig | GPT2Config) -> None:
    before = config.to_dict()
    small = twin_of(config)
    assert config.to_dict() == before
    assert small.get_input_embeddings().weight.shape == (config.vocab_size, 32)
    assert sum(p.numel() for p in small.parameters()) < 4_000_000
    assert type(small).__name__.startswith(type(config).__name__.removesuffix("Config"))


def test_what_needs_numbers_is_refused(model: Unloaded, folder: Path) -> None:
    with pytest.raises(ll.ModelError, match="is not loaded, and this needs its weights"):
        ll.record(model, ONE, "resid_post")
    with pytest.raises(ll.ModelError, match="reads pairs of texts, and is known only when"):
        unloaded(tiny_config("t5", task="Seq2SeqLM"))
    with pytest.raises(ll.ModelError, match="computes with numbers while it is made"):
        unloaded(ViTConfig())
    with pytest.raises(ll.ModelError, match="could not be loaded"):
        ll.estimate("logit_lens", folder / "elsewhere", ONE)


def test_options_of_loading_go_with_an_analysis(folder: Path) -> None:
    with pytest.warns(UserWarning, match="no tokenizer"):
        half = ll.estimate("patch_sweep", folder, ONE, [*ONE[:3], 4, 7, 5], dtype="bfloat16")
    with pytest.warns(UserWarning, match="no tokenizer"):
        whole = ll.estimate("patch_sweep", folder, ONE, [*ONE[:3], 4, 7, 5])
    assert half.bytes < whole.bytes
    assert half.passes == whole.passes


def test_what_was_fitted_on_other_weights_is_not_compared(loaded: LensModel, folder: Path) -> None:
    with (
        pytest.warns(UserWarning, match="no tokenizer"),
        pytest.raises(ll.ModelError, match="follows from its weights, and it is not loaded"),
    ):
        ll.estimate("features", folder, ONE, sae=small_sae(loaded))
