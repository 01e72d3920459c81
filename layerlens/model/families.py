"""The few facts about model families that structure cannot tell.

Everything else is found by watching a pass (``find.py``) and checked by numbers
(``proof.py``). A wrong entry here cannot go unnoticed: the proof would fail.
"""

from __future__ import annotations

#: Configuration attributes that scale what a sublayer adds to the residual stream
#: (Granite's ``residual_multiplier``). A scale seen in a pass must be 1 or one of these.
SUBLAYER_SCALES = ("residual_multiplier", "residual_scale", "mlp_multipliers", "attention_out_multiplier")

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

#: Families that are refused, with the reason. Structure shows that they do not fit, but
#: these sentences say it better than a failed search could.
REFUSED = {
    "gemma3n": "it carries several residual streams side by side (AltUp)",
    "gemma3n_text": "it carries several residual streams side by side (AltUp)",
    "reformer": "its blocks are reversible and carry two residual streams",
    "xlnet": "it is a permutation language model with a two-stream attention",
}

#: Families whose attention gates or norms the heads' outputs before the output
#: projection: there ``z`` is what the projection is given, not pattern times v. The proof
#: compares pattern times v with what the attention gave before that step.
GATED_Z = frozenset(
    {
        "afmoe",  # sigmoid gate, one value a unit
        "axk2",  # sigmoid gate, one value a unit
        "bailing_hybrid",  # sigmoid gate, one value a head
        "bitnet",  # RMS norm over all heads
        "laguna",  # softplus gate, one value a head or a unit
        "lfm3",  # sigmoid gate, one value a head
        "qwen3_5_moe_text",  # sigmoid gate, one value a unit
        "qwen3_5_text",
        "qwen3_next",
    }
)
