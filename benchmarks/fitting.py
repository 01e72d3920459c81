"""What fitted lenses cost: reading through one beside the logit lens, and fitting beside a pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timing import Timer

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.result.fitted import Fitted, ModelFacts

TOP_K = 10
TEXTS = 8


def ridge_of(model: ll.LensModel, labels: list[str]) -> Fitted:
    """Maps of random numbers: they are read at the cost of any."""
    d = model.d_model
    shapes = {f"{label}.{part}": shape for label in labels
              for part, shape in (("weight", (d, d)), ("bias", (d,)))}  # fmt: skip
    arrays = {name: 0.01 * torch.randn(shape) for name, shape in shapes.items()}
    return Fitted("ridge_lens", arrays, ModelFacts.of(model), data="")


def report_fitted(model: ll.LensModel, ids: torch.Tensor, repeats: int) -> None:
    """Measure and print: by the wall clock and by CPU time."""
    tokens = model.tokens(ids)
    labels = [f"{layer}_post" for layer in range(model.n_layers - 1)]
    ridge = ridge_of(model, labels)

    def read(lens: object) -> Callable[[], object]:
        options = {"points": labels, "lens": lens, "top_k": TOP_K}
        return lambda: ll.logit_lens.run(model, tokens, options, Silent())

    timer = Timer(read("logit"), repeats)
    for name, lens in (("a ridge lens", ridge), ("both, compared", ["logit", ridge])):
        wall, cpu, _ = timer.ratios(read(lens))
        print(f"{f'lens through {name}, of the logit lens':60}{wall:7.2f}{cpu:7.2f}")

    texts = torch.randint(100, model.d_vocab - 100, (TEXTS, ids.shape[1]))

    def bare() -> None:
        with torch.inference_mode():
            model.hf(input_ids=texts, use_cache=False)

    timer = Timer(bare, min(repeats, 3))
    depths = labels[:: max(1, model.n_layers // 3)]
    for kind in ("bias", "ridge"):
        options = {"kind": kind, "points": depths, "positions_skipped": 1}
        wall, cpu, _ = timer.ratios(
            lambda options=options: ll.fit_lens.run(model, model.tokens(texts), options, Silent())
        )
        words = f"{kind} lens of {len(depths)} points fitted, of a pass over its texts"
        print(f"{words:60}{wall:7.2f}{cpu:7.2f}")
