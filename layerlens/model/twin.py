"""A small model of the same make, on which the parts of one that is not in memory are found.

Its configuration is the other's with every width made small: as many blocks of the same kinds,
the same vocabulary, the same scales and caps. So its modules have the same paths, and an anatomy
that is found on it by watching it run is that of the other, up to the widths.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from layerlens.errors import ModelError
from layerlens.model.classes import class_of
from layerlens.model.gguf import first_line, quiet
from layerlens.model.tiny import perturb
from layerlens.model.tiny_families import EXTRAS, LATENT, SIZES

#: Of the sizes of a tiny model, those that have to be the model's own here.
OWN = {
    *("vocab_size", "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"),
    *("decoder_layers", "encoder_layers", "num_decoder_layers", "num_encoder_layers"),
    *("num_layers_per_stack", "first_k_dense_replace", "is_decoder"),
    *("max_position_embeddings", "original_max_position_embeddings", "n_positions"),
    *("max_seq_len", "max_target_positions", "max_source_positions", "context_length"),
}
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
WIDEST = 5_000_000
"""Parameters of a block of a twin; more, and a width has a name that is not known."""


def twin_of(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build the small model of the same make, with random weights.

    Parameters
    ----------
    config
        Of the other model; it is not changed.
    trust_remote_code
        As of ``ll.load``.

    Returns
    -------
    PreTrainedModel
        In float32 and ``eval`` mode.

    Raises
    ------
    ModelError
        No such model can be built, or it would not be small.
    """
    error: Exception | None = None
    for extras in ({}, EXTRAS.get(config.model_type, {})):
        try:
            small = type(config)(**_shrunk(config.to_dict(), extras))
            with quiet(), torch.device("meta"):
                hf = _build(small, trust_remote_code)
        except Exception as raised:  # validators raise errors of several libraries
            error = raised
            continue
        _require_small(hf, config)
        return _filled(small, trust_remote_code)
    assert error is not None
    raise ModelError(
        f"No small model of the make of {config.model_type} could be built to find its parts on "
        f"({first_line(error)[:-1]}): load the model itself."
    ) from error


def _filled(config: PreTrainedConfig, trust: bool) -> PreTrainedModel:
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        with quiet():
            hf: PreTrainedModel = _build(config, trust)
        perturb(hf)
    finally:
        torch.random.set_rng_state(state)
    hf.train(False)
    return hf


def _build(config: PreTrainedConfig, trust: bool) -> Any:
    cls = class_of(config)
    if hasattr(cls, "_model_mapping"):
        return cls.from_config(config, dtype=torch.float32, trust_remote_code=trust)
    return cls(config).float()


def _require_small(hf: Any, config: PreTrainedConfig) -> None:
    """Count the parameters before any memory is taken."""
    tables = {id(hf.get_input_embeddings()), id(hf.get_output_embeddings())}
    aside = {id(p) for m in hf.modules() if id(m) in tables for p in m.parameters()}
    size = sum(p.numel() for p in hf.parameters() if id(p) not in aside)
    if size > WIDEST:
        raise ModelError(
            f"A small model of the make of {config.model_type} would have {size:,} parameters "
            f"beside its vocabulary, more than {WIDEST:,}: load the model itself."
        )


def _shrunk(values: dict[str, Any], extras: dict[str, Any]) -> dict[str, Any]:
    """A configuration as a dictionary, its widths small and its ratios of heads kept.

    What states a width of its own in a list, or by a rule for long texts, is taken out.
    """
    sizes = SIZES | LATENT if values.get("kv_lora_rank") else SIZES
    found: dict[str, Any] = {}
    for name, old in values.items():
        if isinstance(old, dict) and name.startswith("rope_"):
            found[name] = _plain_rotation(old)
        elif isinstance(old, dict) and name.endswith("_config"):
            found[name] = _shrunk(old, {})
        elif old is None or name in OWN or name.endswith("_token_id") or name not in sizes:
            found[name] = old
        else:
            found[name] = sizes[name] if not isinstance(old, list | tuple | bool) else old
    found |= _key_value_heads(values, found)
    for name in ("quantization_config", "dtype"):
        found.pop(name, None)
    return {**found, **{n: v for n, v in extras.items() if n not in OWN and n not in found}}


def _key_value_heads(values: dict[str, Any], small: dict[str, Any]) -> dict[str, int]:
    """One key-value head where there is one, as many as heads where there are as many."""
    whole = next((values[name] for name in HEADS if isinstance(values.get(name), int)), None)
    heads = next((small[name] for name in HEADS if isinstance(small.get(name), int)), None)
    given = [name for name in KEY_VALUE_HEADS if isinstance(values.get(name), int)]
    if whole is None or heads is None:
        return {}
    return {
        name: heads if values[name] == whole else 1 if values[name] == 1 else small[name]
        for name in given
    }


def _plain_rotation(given: dict[str, Any]) -> dict[str, Any]:
    """Rotary embeddings of the same share of a head, without rules for long texts."""
    if "rope_type" not in given and "type" not in given:
        return {k: _plain_rotation(v) if isinstance(v, dict) else v for k, v in given.items()}
    own = ("rope_theta", "partial_rotary_factor")
    kept: dict[str, Any] = {name: given[name] for name in own if name in given}
    return {"rope_type": "default", **kept}
