"""Which class of transformers a checkpoint is loaded with."""

from __future__ import annotations

from typing import Any

#: Tried in this order for a checkpoint that does not name its class.
AUTO = (
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForImageClassification",
    "AutoModelForCTC",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForAudioClassification",
    "AutoModel",
)


def class_of(config: Any) -> Any:
    """The class that loads a checkpoint with its own head.

    A decoder is loaded with a language-model head whatever its checkpoint was saved as, except as
    a classifier; anything else with the class that its configuration names.

    Parameters
    ----------
    config
        Of the checkpoint.

    Returns
    -------
    type
        Has ``from_pretrained``.
    """
    import transformers

    own_code = getattr(config, "auto_map", None) or {}
    if "AutoModelForCausalLM" in own_code:
        return transformers.AutoModelForCausalLM
    writes = _has(transformers.AutoModelForCausalLM, config)
    reads_both_ways = _has(transformers.AutoModelForMaskedLM, config)
    named = (getattr(config, "architectures", None) or [""])[0]
    cls = getattr(transformers, named, None)
    of_two_sides = bool(getattr(config, "is_encoder_decoder", False))
    as_named = not writes or reads_both_ways or of_two_sides or "Classification" in named
    if cls is not None and as_named:
        return cls
    found = (getattr(transformers, name) for name in AUTO)
    return next(
        (auto for auto in found if _has(auto, config) or type(config).__name__ in own_code),
        transformers.AutoModelForCausalLM,
    )


def _has(auto: Any, config: Any) -> bool:
    """Whether an automatic class knows a configuration."""
    return type(config) in auto._model_mapping
