"""What late layers take from an answer, against plain torch and a model that suppresses one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.errors import InputError, SiteError
from layerlens.model.lensmodel import LensModel

from ..planted import suppressing_model

TEXTS = [[5, 17, 20, 3, 90, 41], [8, 2, 63, 7], [11, 30, 9, 44, 2]]
NEUTRAL = [4, 8, 15, 16, 23, 42]


def test_a_planted_suppressor_is_found_and_undone() -> None:
    share, token = 0.75, 5
    model = suppressing_model(token, share)
    found = ll.suppression(
        model, [1, token], answer=token, parts=["mlp_out.0"], factors=[1, 0.5, 0], neutral=[1, 2, 5]
    )
    features = (model.d_model // 2) ** 0.5

    def logit(left: float) -> float:
        """Of the token, by the size of its feature beside two others of size 1."""
        return 8 * left * features / (2 + left**2) ** 0.5

    change = found.data.logit_change.sel(layer=0)
    assert float(change.sel(token="answer")) == pytest.approx(logit(1 - share) - logit(1), rel=1e-3)
    assert float(found.data.falls.sel(layer=0, token="answer")) == 1
    np.testing.assert_allclose(change.sel(token="runner-up"), 0, atol=1e-3)
    p = [1 / (1 + 11 * np.exp(-logit(1 - share * factor))) for factor in (1, 0.5, 0)]
    np.testing.assert_allclose(found.data.answer_probability[:, 0], p, rtol=1e-3)
    assert found.checks.ok and len(found.checks) == 2


def plain(model: LensModel, ids: list[int], part: str, factor: float) -> torch.Tensor:
    """Log-probabilities ``[position, vocabulary]`` with a module's output times a factor."""
    module = model.hf.get_submodule(part)
    hook = module.register_forward_hook(
        lambda _, args, out: (out[0] * factor, *out[1:]) if isinstance(out, tuple) else out * factor
    )
    with torch.no_grad():
        found = model.hf(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    hook.remove()
    return found


MODULES = ("transformer.h.2.attn", "transformer.h.2.mlp")


def test_doses_are_those_of_plain_hooks(gpt2: LensModel) -> None:
    parts = ["attn_out.2", "mlp_out.2"]
    found = ll.suppression(gpt2, TEXTS, parts=parts, factors=[1, 0.25], neutral=NEUTRAL).data
    answers = [int(plain(gpt2, ids, MODULES[0], 1)[-1].argmax()) for ids in TEXTS]
    for part, module in zip(parts, MODULES, strict=True):
        for factor in (1.0, 0.25):
            ends = [plain(gpt2, ids, module, factor)[-1] for ids in TEXTS]
            here = found.sel(part=part, factor=factor)
            p = np.mean([float(end[a].exp()) for end, a in zip(ends, answers, strict=True)])
            assert float(here.answer_probability) == pytest.approx(p, rel=1e-4)
            right = [int(end.argmax()) == a for end, a in zip(ends, answers, strict=True)]
            assert float(here.accuracy) == pytest.approx(np.mean(right))
            log_p = plain(gpt2, NEUTRAL, module, factor)[:-1]
            ce = -float(log_p.gather(1, torch.tensor(NEUTRAL[1:])[:, None]).mean())
            assert float(here.neutral_ce) == pytest.approx(ce, rel=1e-4)


def test_steps_add_up_to_the_model(model: LensModel) -> None:
    found = ll.suppression(model, TEXTS, neutral=NEUTRAL)
    lens = [ll.logit_lens(model, ids, points=["embed", "post"]).data for ids in TEXTS]
    first = np.mean([float(one.entropy.isel(point=0, position=-1)) for one in lens])
    last = np.mean([float(one.entropy.isel(point=-1, position=-1)) for one in lens])
    assert float(found.data.entropy_change.sum()) == pytest.approx(last - first, abs=1e-3)
    drawn = [part for part in found.data.part.values.tolist() if not part.endswith(".2")]
    assert len(found.data.part) == 4 and len(drawn) == 2
    assert found.checks.ok


def test_a_head_is_a_part_and_what_is_none_is_refused(gpt2: LensModel) -> None:
    found = ll.suppression(gpt2, TEXTS[0], parts=["z.1.0", "z.1.1"], neutral=NEUTRAL).data
    assert found.part.values.tolist() == ["z.1.0", "z.1.1"]
    assert (
        "There is no tokenizer"
        in ll.suppression(gpt2, TEXTS[0], parts="mlp_out.1").data.attrs["notes"]
    )
    with pytest.raises(SiteError):
        ll.suppression(gpt2, TEXTS[0], parts=["z.1.9"])
    for wrong in ({"parts": ["mlp_out"]}, {"parts": []}, {"factors": []}, {"neutral": [3]}):
        with pytest.raises(InputError):
            ll.suppression(gpt2, TEXTS[0], **wrong)
