"""Every form of load(), and the sentence for everything that can be wrong with a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from layerlens.errors import InputError, ModelError
from layerlens.model.inputs import images
from layerlens.model.load import load
from layerlens.model.toys import get_toy, make_tokenizer, toy_folder
from layerlens.model.weights import require_finite

IDS = torch.tensor([[1, 2, 3, 4]])


def change_weights(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(config | values), "utf-8")


def in_memory(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def test_folder_without_tokenizer_gives_a_note_and_none(folder: Path) -> None:
    with pytest.warns(UserWarning, match="has no tokenizer, so only token ids") as caught:
        model = load(folder)
    assert caught[0].filename == __file__
    assert model.tokenizer is None
    assert model.name == "tiny"
    assert model.n_layers == 2


def test_folder_as_text_with_its_tokenizer() -> None:
    model = load(str(toy_folder("induction")), name="mine")
    assert model.name == "mine"
    assert model.tokenizer("cat owl")["input_ids"] == [61, 9, 47]


@pytest.mark.filterwarnings("error")
def test_a_tokenizer_may_be_given(folder: Path) -> None:
    own = make_tokenizer(get_toy("addition"))
    assert load(folder, own).tokenizer is own
    assert load(folder, str(toy_folder("addition"))).tokenizer("1+2")["input_ids"] == [1, 10, 2]


def test_a_model_in_memory_is_that_very_object(folder: Path) -> None:
    hf = in_memory(folder)
    places = [weight.data_ptr() for weight in hf.parameters()]
    before = {key: value.clone() for key, value in hf.state_dict().items()}
    model = load(hf)
    assert model.hf is hf
    assert model.tokenizer is None
    assert [weight.data_ptr() for weight in hf.parameters()] == places
    assert all(torch.equal(value, before[key]) for key, value in hf.state_dict().items())


@pytest.mark.parametrize("option", [{"dtype": "float32"}, {"device": "cpu"}])
def test_a_model_in_memory_takes_no_dtype_or_device(folder: Path, option: dict[str, str]) -> None:
    with pytest.raises(InputError, match="used as it is, so dtype and device cannot be given"):
        load(in_memory(folder), **option)


def test_something_that_is_no_model() -> None:
    with pytest.raises(InputError, match=r"load\(\) got a int; give a hub id"):
        load(3)


@pytest.mark.filterwarnings("ignore:.*has no tokenizer")
def test_dtype_and_device(folder: Path) -> None:
    assert load(folder).dtype == torch.float32
    model = load(folder, dtype="bfloat16", device="cpu")
    assert model.dtype == torch.bfloat16
    assert model.device == torch.device("cpu")
    assert load(folder, dtype=torch.float16).dtype == torch.float16


@pytest.mark.parametrize("dtype", ["int8", "nonsense", "nn", 3])
def test_a_dtype_that_is_none(folder: Path, dtype: Any) -> None:
    with pytest.raises(InputError, match="is not a floating type; give 'float32'"):
        load(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", 1.5])
def test_a_device_that_is_none(folder: Path, device: Any) -> None:
    with pytest.raises(InputError, match=r"is not usable here \(.*\); leave it out for the CPU"):
        load(folder, device=device)


@pytest.mark.parametrize("source", ["./none", "/no/such/folder", Path("none"), "none.gguf", "a b"])
def test_a_path_that_is_not_there(source: Any) -> None:
    with pytest.raises(ModelError, match="There is no folder or file"):
        load(source)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model: it has no config\.json"):
        load(tmp_path)


def test_a_file_of_another_kind(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"is not a \.gguf file; for other weights"):
        load(folder / "model.safetensors")


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="neither a local folder nor in the hub's cache"):
        load("layerlens-tests/there-is-no-such-model")


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="tiny could not be loaded: "):
        load(folder)


def test_a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="tiny could not be loaded: "):
        load(folder)


def test_weights_that_are_missing_are_never_made_up(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        ModelError, match=r"lacks 1 of the weights .* model\.layers\.1\.mlp\.up_proj"
    ):
        load(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    change_config(folder, intermediate_size=32)
    with pytest.raises(ModelError, match="tiny could not be loaded: "):
        load(folder)


def test_a_checkpoint_without_a_head(folder: Path, tmp_path: Path) -> None:
    in_memory(folder).model.save_pretrained(tmp_path / "body")
    with pytest.raises(ModelError, match=r"has no language-model head \(lm_head\.weight is not"):
        load(tmp_path / "body")


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.mark.filterwarnings("ignore:.*has no tokenizer")
@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"])
def test_an_encoder_is_loaded_with_the_head_that_it_was_saved_with(
    name: str, tmp_path: Path
) -> None:
    hf = getattr(tf, name)(tf.BertConfig(vocab_size=30, **SMALL))
    hf.save_pretrained(tmp_path / "bert")
    model = load(tmp_path / "bert")
    assert type(model.hf) is type(hf)
    assert (model.anatomy.head is None) == (name == "BertModel")


def test_a_model_of_pictures_is_loaded_with_what_prepares_them(tmp_path: Path) -> None:
    config = tf.ViTConfig(image_size=8, patch_size=4, num_labels=3, **SMALL)
    tf.ViTForImageClassification(config).save_pretrained(tmp_path)
    saved = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(saved))
    model = load(tmp_path)
    picture = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    tokens = model.tokens(images(picture))
    assert tokens.given["pixel_values"].shape == (1, 3, 8, 8)
    assert tokens.strings[0] == ("[cls]", "r0c0", "r0c1", "r1c0", "r1c1")
    assert "by its ViTImageProcessor" in tokens.notes[0]


def test_code_of_its_own_is_not_run(folder: Path) -> None:
    change_config(
        folder,
        model_type="unheard_of",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )
    (folder / "evil.py").write_text(f"open({str(folder / 'was_run')!r}, 'w')\n")
    with pytest.raises(ModelError, match="brings Python code of its own"):
        load(folder)
    assert not (folder / "was_run").exists()


@pytest.mark.filterwarnings("ignore:.*has no tokenizer")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_numbers(folder: Path, bad: float) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.0.self_attn.v_proj.weight"][1, 2:4] = bad

    change_weights(folder, spoil)
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.v_proj\.weight holds 2 values"):
        load(folder)
    with pytest.raises(ModelError, match=r"v_proj\.weight holds 2 values"):
        load(in_memory(folder))


def test_large_finite_weights_are_not_suspected() -> None:
    module = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.constant_(module.weight, 3e38)
    require_finite(module)


def test_weights_elsewhere_are_left_alone() -> None:
    require_finite(torch.nn.Linear(4, 4, device="meta"))


def test_an_unreadable_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"The tokenizer of .* could not be loaded .*second arg"):
        load(folder)


def write_gguf(path: Path, pre: str = "smollm") -> None:
    """A tiny Llama in GGUF: bytes as vocabulary, one merge, random weights."""
    from gguf import GGUFWriter, TokenType
    from tokenizers.pre_tokenizers import ByteLevel

    words = [*sorted(ByteLevel.alphabet()), "12", "<end>"]
    width, mlp, random = 32, 64, np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_merges(["1 2"])
    writer.add_token_types([TokenType.NORMAL] * (len(words) - 1) + [TokenType.CONTROL])
    writer.add_bos_token_id(len(words) - 1)
    writer.add_eos_token_id(len(words) - 1)
    shapes = {"token_embd": (len(words), width), "output": (len(words), width)}
    shapes |= {f"blk.0.attn_{part}": (width, width) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (mlp, width), "blk.0.ffn_up": (mlp, width)}
    shapes |= {"blk.0.ffn_down": (width, mlp)}
    norms = ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.1, shape).astype(np.float32))
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    write_gguf(path)
    model = load(path)
    assert model.name == "small"
    assert model.dtype == torch.float32
    assert not hasattr(model.hf.config, "quantization_config")
    assert torch.isfinite(model.hf(IDS).logits).all()
    assert model.tokenizer.tokenize("a12") == ["a", "1", "2"]
    assert load(tmp_path).name == "small"  # a folder with this one file


def test_a_gguf_file_of_another_splitting_keeps_its_numbers_whole(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", pre="gpt-2")
    assert load(tmp_path / "small.gguf").tokenizer.tokenize("a12") == ["a", "12"]


def test_a_gguf_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"not at all")
    with pytest.raises(ModelError, match="does not begin with the bytes 'GGUF'"):
        load(path)
    path.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match="transformers could not read"):
        load(path)
