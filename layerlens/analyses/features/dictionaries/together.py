"""What features that write into several layers add up to in each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layerlens.analyses.features.dictionaries.dictionary import Dictionary


def reconstruct_all(dictionaries: Sequence[Dictionary], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What all features write into each layer, and the features of each.

    Parameters
    ----------
    dictionaries
        Of the layers that were learned together, in order.
    x
        ``[n, layer, d]``: what each reads.

    Returns
    -------
    tuple
        ``[n, layer, o]``, and for each layer ``[n, m]``.
    """
    features = [one.encode(x[:, layer]) for layer, one in enumerate(dictionaries)]
    written = [one.written(x[:, layer], features[layer]) for layer, one in enumerate(dictionaries)]
    for layer, one in enumerate(dictionaries):
        for later, rows in enumerate(one.later, layer + 1):
            written[later] = written[later] + features[layer] @ rows
    return torch.stack(written, 1), features
