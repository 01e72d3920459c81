"""A model with its two facts in the wrong order: the second hop is stored before the first."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from layerlens.model.lensmodel import LensModel

from .planted import WORDS, Stream, empty

#: The layers whose MLPs know the first and the second hop.
FIRST, SECOND = 3, 1


def two_hop_model(first: Mapping[int, int], second: Mapping[int, int]) -> LensModel:
    """Four layers that know both hops of a question and cannot join them.

    The MLP of layer 3 finds the bridge of the token that it sees; the MLP of layer 1 finds the
    answer to a bridge. When the bridge is there, layer 1 is past, and the model repeats the token
    that it sees. Only the state after layer 3, put back before layer 1, gives the answer.

    Parameters
    ----------
    first
        Token to bridge.
    second
        Bridge to the token that is the answer.
    """
    stream = Stream(token=WORDS, position=WORDS, bridge=WORDS, out=WORDS)
    hf = empty(stream, layers=4, hidden=max(len(first), len(second)))
    with torch.no_grad():
        hf.transformer.wte.weight.add_(stream.codes("out"))
        seen = (stream.n / 3) ** 0.5  # of a unit feature beside two others
        mlp = hf.transformer.h[FIRST].mlp
        for neuron, (token, bridge) in enumerate(first.items()):
            mlp.c_fc.weight[:, neuron] = stream.read("token")[:, token]
            mlp.c_fc.bias[neuron] = -0.8 * seen
            mlp.c_proj.weight[neuron] = stream.code("bridge", bridge, 1 / (0.2 * seen))
        seen = (stream.n / 4) ** 0.5
        mlp = hf.transformer.h[SECOND].mlp
        for neuron, (bridge, answer) in enumerate(second.items()):
            mlp.c_fc.weight[:, neuron] = stream.read("bridge")[:, bridge]
            mlp.c_fc.bias[neuron] = -0.5 * seen
            mlp.c_proj.weight[neuron] = stream.code("out", answer, 20 / (0.5 * seen))
    return LensModel.wrap(hf, None, name="planted two hops", prove=False)
