"""Whether the weights of a model are all there, and are numbers."""

from __future__ import annotations

import math
from typing import Any

from layerlens.errors import ModelError


def require_weights(hf: Any, info: dict[str, Any], label: str) -> None:
    """Raise ModelError where a weight got no value from the checkpoint.

    transformers fills such a weight with random numbers and only logs it. ``info`` is its loading
    report, ``label`` what the message calls the model.
    """
    missing = sorted(info["missing_keys"])
    if not missing:
        return
    body = f"{hf.base_model_prefix}."
    if not any(key.startswith(body) for key in missing):
        raise ModelError(
            f"{label} has no language-model head ({missing[0]} is not among its weights), so it "
            "predicts no tokens; give a checkpoint that was saved with its head."
        )
    raise ModelError(
        f"{label} lacks {len(missing):,} of the weights that its config asks for, {missing[0]} "
        "first; get a complete copy."
    )


def require_finite(hf: Any) -> None:
    """Raise ModelError naming the first parameter that holds NaN or infinity.

    One sum a parameter (about 0.1 s for 135 million weights). Parameters that are elsewhere
    (meta, offloaded) or not plain floating numbers (quantised) are left out.
    """
    import torch

    with torch.inference_mode():
        for where, weight in hf.named_parameters():
            if weight.is_meta or not weight.is_floating_point() or weight.element_size() < 2:
                continue
            total = float(weight.detach().sum(dtype=torch.float32))
            # A sum of large finite numbers can overflow, so a bad sum is only a suspicion.
            if not math.isfinite(total) and not bool(torch.isfinite(weight).all()):
                bad = int((~torch.isfinite(weight)).sum())
                raise ModelError(
                    f"The weight {where} holds {bad:,} values that are NaN or infinite, so nothing "
                    "this model says can be trusted; get a sound copy of its weights."
                )
