"""Six ways to explain an answer, held against what the model does without the tokens they name.

    python benchmarks/faithful.py            # the default model, ten facts
    python benchmarks/faithful.py --smoke    # a toy model, to see that it runs

The rules of ``ll.relevance`` and attention rollout order the tokens of each prompt. Printed is by
how much the answer's probability falls, on average, without the tokens that an order names first
(comprehensiveness: the higher the better) and with these alone (sufficiency: the lower the better),
with 95 % intervals over prompts. Beside them: random orders with the band of their means, orders by
place, what the model itself does without each token alone, and the same by a model of the same
shape with random weights, whose logit is taken, because all its probabilities are alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM

import layerlens as ll

RULES = ("attnlrp", "cp", "input_x_gradient", "gradient", "integrated")
FACTS = (
    "The capital of France is Paris. The capital of Italy is",
    "The color of a ripe banana is",
    "Two plus two is equal to",
    "The chemical symbol for water is",
    "The first month of the year is",
    "The opposite of hot is",
    "The largest planet in the solar system is",
    "Shakespeare wrote the tragedy of Romeo and",
    "The Eiffel Tower stands in the city of",
    "Monday, Tuesday, Wednesday, Thursday,",
)
SAID = "{:20}{:>9.3f} [{:>7.3f}, {:>7.3f}]{:>11.3f} [{:>7.3f}, {:>7.3f}]"


def main() -> None:
    """Print the table for a model that learned and for one that did not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--draws", type=int, default=20, help="random orders")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = ll.load("toy:induction") if asked.smoke else ll.load()
    prompts = ("cat dog owl cat", "owl cat dog owl") if asked.smoke else FACTS
    draws = 2 if asked.smoke else asked.draws
    report(model, prompts, draws, "probability")
    torch.manual_seed(0)
    blank = AutoModelForCausalLM.from_config(model.hf.config)
    untrained = ll.load(blank, tokenizer=model.tokenizer, name=f"{model.name}, untrained")
    report(untrained, prompts, draws, "logit")


def report(model: ll.LensModel, prompts: Sequence[str], draws: int, metric: str) -> None:
    """One model's table, the best order first."""
    rollout = [ll.token_attribution(model, one).data.attribution[-1].values for one in prompts]
    found = ll.faithfulness(
        model,
        list(prompts),
        rules=RULES,
        scores={"rollout": rollout},
        draws=draws,
        metric=metric,
        steps=16,
    )
    data, names = found.data, ("comprehensiveness", "sufficiency")
    print(f"\n{model.name}, {len(prompts)} prompts, fall of the {metric}")
    print(f"{'order':20}{'without the first':>28}{'with these alone':>30}")
    for order in data.order.values[(-data.comprehensiveness.values).argsort()]:
        row = data.sel(order=order)
        ends = [float(row[f"{name}{end}"]) for name in names for end in ("", "_low", "_high")]
        print(SAID.format(order, *ends))
    bands = [float(data[f"{name}_chance_{end}"]) for name in names for end in ("low", "high")]
    print("random orders, 95 %: {:.3f} to {:.3f}, and {:.3f} to {:.3f}".format(*bands))
    print(f"checks hold: {found.checks.ok}", flush=True)


if __name__ == "__main__":
    main()
