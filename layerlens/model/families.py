"""The few facts about model families that structure cannot tell.

Everything else is found by watching a pass (``find.py``) and checked by numbers
(``proof.py``). A wrong entry here cannot go unnoticed: the proof would fail.
"""

from __future__ import annotations

#: Configuration attributes that scale what a sublayer adds to the residual stream
#: (Granite's ``residual_multiplier``). A scale seen in a pass must be 1 or one of these.
SUBLAYER_SCALES = ("residual_multiplier", "residual_scale")

#: What happens to the head's output: configuration attribute -> operation.
#: ``cap`` is ``c * tanh(z / c)``; several are applied in this order.
LOGIT_OPERATIONS = (
    ("logit_scale", "multiply"),
    ("lm_head_multiplier", "multiply"),
    ("logits_scaling", "divide"),
    ("final_logit_softcapping", "cap"),
    ("logits_soft_cap", "cap"),
    ("output_logit_soft_cap", "cap"),
    ("logit_soft_cap", "cap"),
)

#: Words in a class name that mark a normalisation layer.
NORM_WORDS = ("norm", "layernorm", "rms")

_STREAMS = "it carries several residual streams side by side"

_CONFORMER = "its blocks hold four sublayers one after the other (a conformer)"
_CONVOLUTIONS = "it is a convolutional network, without blocks that hand on one stream"

#: Why families do not fit, put in place of the search's own words when it fails.
REFUSED = {
    "beam": "it scales the residual stream down before each sum",
    "bit": _CONVOLUTIONS,
    "blt": "its blocks run over patches of bytes, and a decoder stands between them and the head",
    "convnext": _CONVOLUTIONS,
    "convnextv2": _CONVOLUTIONS,
    "cpmant": "it puts prompt tokens of its own in front of the text",
    "deepseek_v4": f"{_STREAMS} (hyper-connections)",
    "doge": "it multiplies the residual stream with learned vectors before each sum",
    "efficientnet": _CONVOLUTIONS,
    "falcon_h1": "each block runs an attention and a state-space mixer side by side",
    "gemma3n": f"{_STREAMS} (AltUp)",
    "gemma3n_text": f"{_STREAMS} (AltUp)",
    "gpt_neox_japanese": "its last block adds the attention's bias outside of any module",
    "hgnet_v2": _CONVOLUTIONS,
    "hrm_text": "it runs its stacks of blocks several times over, in a loop",
    "hy_v4": f"{_STREAMS} (hyper-connections)",
    "inkling2_text": "its sublayers read a mixture of earlier blocks' states, not one stream",
    "levit": _CONVOLUTIONS,
    "lasr_ctc": _CONFORMER,
    "longcat_flash": "each block holds two attentions and two MLPs, and a shortcut around them",
    "longformer": "it pads each text to its window, so its states are of other positions",
    "mobilenet_v1": _CONVOLUTIONS,
    "mobilenet_v2": _CONVOLUTIONS,
    "poolformer": _CONVOLUTIONS,
    "parakeet_ctc": _CONFORMER,
    "pp_lcnet": _CONVOLUTIONS,
    "prophetnet": "it predicts several tokens ahead in streams of their own",
    "qwen4_exp": f"{_STREAMS} (hyper-connections)",
    "qwen4_exp_text": f"{_STREAMS} (hyper-connections)",
    "reformer": "its blocks are reversible and carry two residual streams",
    "regnet": _CONVOLUTIONS,
    "resnet": _CONVOLUTIONS,
    "squeezebert": "its states are laid out by width and then by position",
    "swiftformer": _CONVOLUTIONS,
    "textnet": _CONVOLUTIONS,
    "wav2vec2-bert": _CONFORMER,
    "wav2vec2-conformer": _CONFORMER,
    "xlm": "its sublayers are kept in separate lists, not in blocks",
    "xlnet": "it is a permutation language model with a two-stream attention",
    "xmod": "its language adapters are a third sublayer in each block",
    "zaya": "it scales and shifts the residual stream with learned vectors before each sum",
}

#: Families whose softmaxes weigh landmarks or blocks of positions: what could be watched of them
#: is no pattern of positions, so that they have no heads.
WITHOUT_PATTERN = frozenset({"nystromformer"})

#: Families whose attention gates or norms the heads' outputs before the output
#: projection: there ``z`` is what the projection is given, not pattern times v. The proof
#: compares pattern times v with what the attention gave before that step.
GATED_Z = frozenset(
    {
        "afmoe",  # sigmoid gate, one value a unit
        "axk2",  # sigmoid gate, one value a unit
        "bailing_hybrid",  # sigmoid gate, one value a head
        "bitnet",  # RMS norm over all heads
        "dots3_note_text",  # sigmoid gate, one value a head
        "laguna",  # softplus gate, one value a head or a unit
        "lfm3",  # sigmoid gate, one value a head
        "qwen3_5_moe_text",  # sigmoid gate, one value a unit
        "qwen3_5_text",
        "qwen3_next",
    }
)
