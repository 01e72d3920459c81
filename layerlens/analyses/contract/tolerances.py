"""How far logits that were computed in two ways may lie apart."""

from __future__ import annotations

import torch

_LOGIT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2}
_BFLOAT16_TOLERANCE = 4e-2


def logit_tolerance(dtype: torch.dtype) -> float:
    """Return the limit for a dtype, as a share of the largest logit; others have bfloat16's."""
    return _LOGIT_TOLERANCE.get(dtype, _BFLOAT16_TOLERANCE)
