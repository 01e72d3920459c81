"""Tiny models of our own: what each was taught, its words, and fresh examples of its task.

They are standard Hugging Face classes with trained weights, shipped in the package, so everything
that works on a large model works on them, in a fraction of a second. ``train_toys.py`` and
``train_modular.py`` made them; the training log of each is ``training.json`` in its folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.trained_range import TrainedRange

PICTURES = "digits"
"""The toy that reads pictures; `layerlens.model.train_digits` makes it."""

PREFIX = "toy:"
UNKNOWN, PADDING, BEGIN = "<unk>", "<pad>", "<bos>"

MODULUS = 113
MODULAR_SHARE = 0.3  # of all 113 x 113 pairs, seen in training; the others are held out
DIGITS = 3
SEGMENT = (4, 24)  # shortest and longest segment of the induction task, in words
INDUCTION_LENGTH = 48

ANIMALS = (
    "ant ape bat bear bee bird boar bull calf cat clam cod colt cow crab crow deer dog dove duck "
    "eel elk emu ewe fish flea fly foal fox frog gnat goat gull hare hawk hen ibex kid kite lamb "
    "lion lynx mole moth mouse mule newt owl ox panda pig pony puma rat seal sheep snail swan "
    "toad wasp wolf"
)
WORDS = ANIMALS.split()


@dataclass(frozen=True)
class Examples:
    """Token ids of a task and where its answers stand.

    ``ids`` is int64 ``[row, position]``; ``answer`` is bool of the same shape, True at every token
    that the model is meant to predict from those before it.
    """

    ids: Tensor
    answer: Tensor


@dataclass(frozen=True)
class Toy:
    """One task: its name, what it teaches, its vocabulary and how examples are drawn.

    ``draw(count, held_out, generator)`` gives examples; ``held_out`` asks for those that training
    never saw. ``example`` is a prompt and the one token that must follow; ``trained`` says what
    its texts look like, and goes into the model's configuration.
    """

    name: str
    teaches: str
    words: tuple[str, ...]
    split: str
    begin: bool
    example: tuple[str, str]
    draw: Callable[[int, bool, torch.Generator], Examples]
    trained: TrainedRange


def _induction(count: int, held_out: bool, generator: torch.Generator) -> Examples:
    """Draw ``<bos> s s s ...`` with a new random segment s of distinct words in every row.

    There is nothing to hold out: no segment is ever drawn twice.
    """
    del held_out
    shortest, longest = SEGMENT
    span = torch.randint(shortest, longest + 1, (count, 1), generator=generator)
    order = torch.rand(count, len(WORDS), generator=generator).argsort(dim=1)
    place = torch.arange(INDUCTION_LENGTH - 1).expand(count, -1)
    ids = order.gather(1, place % span)
    begin = torch.full((count, 1), len(WORDS), dtype=torch.int64)
    # The first word of the first repetition cannot be known; every later one can.
    answer = torch.cat([torch.zeros(count, 1, dtype=torch.bool), place > span], dim=1)
    return Examples(torch.cat([begin, ids], dim=1), answer)


def modular_pairs(*, held_out: bool = False) -> Tensor:
    """The pairs that the modular toy was trained on, or those that it never saw.

    A fixed shuffle of all pairs. A held-out pair may have been seen the other way round (``88 +
    57`` for ``57 + 88``), as 30 % of them were.

    Returns
    -------
    Tensor
        int64 ``[n, 2]``, a and b.

    Examples
    --------
    >>> len(modular_pairs()), len(modular_pairs(held_out=True))
    (3830, 8939)
    """
    shuffle = torch.randperm(MODULUS**2, generator=torch.Generator().manual_seed(0))
    seen = int(MODULAR_SHARE * MODULUS**2)
    chosen = shuffle[seen:] if held_out else shuffle[:seen]
    return torch.stack([chosen // MODULUS, chosen % MODULUS], dim=1)


PAIRS: dict[str, Callable[[], Tensor]] = {"modular": modular_pairs}
"""The pairs of training, by the name that a model's `TrainedRange` has for them."""


def _modular(count: int, held_out: bool, generator: torch.Generator) -> Examples:
    """Draw ``a + b = c`` with c = (a + b) mod 113."""
    pairs = modular_pairs(held_out=held_out)
    a, b = pairs[torch.randint(len(pairs), (count,), generator=generator)].T
    plus, equals = torch.full_like(a, MODULUS), torch.full_like(a, MODULUS + 1)
    ids = torch.stack([a, plus, b, equals, (a + b) % MODULUS], dim=1)
    return Examples(ids, (torch.arange(5) == 4).expand(count, -1))


def _addition(count: int, held_out: bool, generator: torch.Generator) -> Examples:
    """Draw ``123+456=0579``: every digit a token, the sum with one digit more than its parts.

    Every tenth pair, by a fixed rule that mixes both numbers, is held out.
    """
    top = 10**DIGITS
    drawn = torch.randint(top, (count * 12 + 200, 2), generator=generator)
    out = (drawn[:, 0] * 7919 + drawn[:, 1] * 104729) // 7 % 10 == 0
    a, b = drawn[out if held_out else ~out][:count].T
    ids = torch.cat(
        [
            digits_of(a, DIGITS),
            torch.full((count, 1), 10),
            digits_of(b, DIGITS),
            torch.full((count, 1), 11),
            digits_of(a + b, DIGITS + 1),
        ],
        dim=1,
    )
    first = 2 * DIGITS + 2
    return Examples(ids, (torch.arange(ids.shape[1]) >= first).expand(count, -1))


def digits_of(numbers: Tensor, width: int) -> Tensor:
    """``[n, width]``: the digits of numbers ``[n]``, the highest first."""
    powers = 10 ** torch.arange(width - 1, -1, -1)
    return numbers[:, None] // powers % 10


REPEATED_WORDS = TrainedRange(
    f"'cat owl fox bee cat owl': names of animals, {SEGMENT[0]} to {SEGMENT[1]} of them repeated",
    INDUCTION_LENGTH,
    SEGMENT,
)
"""What both toys of induction have seen."""

TOYS: dict[str, Toy] = {
    toy.name: toy
    for toy in (
        Toy(
            "induction",
            "continue a repeated random sequence: find the word's last place, copy what followed",
            (*WORDS, BEGIN, UNKNOWN, PADDING),
            "words",
            True,
            ("cat owl fox bee cat owl", "fox"),
            _induction,
            REPEATED_WORDS,
        ),
        Toy(
            "two_heads",
            "the task of induction, with one head for the previous token and one for induction",
            (*WORDS, BEGIN, UNKNOWN, PADDING),
            "words",
            True,
            ("cat owl fox bee cat owl", "fox"),
            _induction,
            REPEATED_WORDS,
        ),
        Toy(
            "modular",
            f"add two numbers modulo {MODULUS}",
            (*map(str, range(MODULUS)), "+", "=", UNKNOWN, PADDING),
            "words",
            False,
            ("57 + 88 =", "32"),
            _modular,
            TrainedRange(
                f"'57 + 88 =': two numbers from 0 to {MODULUS - 1}, with spaces",
                5,
                pairs="modular",
            ),
        ),
        Toy(
            "addition",
            f"add two numbers of {DIGITS} digits, writing the sum digit by digit",
            (*map(str, range(10)), "+", "=", UNKNOWN, PADDING),
            "characters",
            False,
            ("478+354=0", "8"),
            _addition,
            TrainedRange(
                f"'478+354=0': two numbers of {DIGITS} digits each, without spaces",
                3 * DIGITS + 3,
            ),
        ),
    )
}


def get_toy(name: str) -> Toy:
    """Return the toy called ``name`` (with or without ``toy:``).

    Raises
    ------
    InputError
        There is none; the message lists those there are.
    """
    toy = TOYS.get(name.removeprefix(PREFIX))
    if toy is None:
        known = ", ".join(f"'{PREFIX}{each}'" for each in (*TOYS, PICTURES))
        raise InputError(f"There is no toy model {name!r}; choose one of {known}.")
    return toy


def toy_folder(name: str) -> Path:
    """Folder of a shipped toy: safetensors, config, tokenizer or processor, and training log."""
    if name.removeprefix(PREFIX) == PICTURES:
        return Path(__file__).with_name("toys") / PICTURES
    return Path(__file__).with_name("toys") / get_toy(name).name


def make_tokenizer(toy: Toy) -> Any:
    """Make the toy's tokenizer (``PreTrainedTokenizerFast``): one token a word or a character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast  # its constructor has no annotations
    vocabulary = {word: index for index, word in enumerate(toy.words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    if toy.split == "words":
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        backend.decoder = decoders.Fuse()
    if toy.begin:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, vocabulary[BEGIN])]
        )
    special = {"unk_token": UNKNOWN, "pad_token": PADDING}
    if toy.begin:
        special["bos_token"] = BEGIN
    return make(tokenizer_object=backend, **special)


def answer_accuracy(model: Any, examples: Examples) -> float:
    """Share of answer tokens that the model ranks first, given the true tokens before them."""
    with torch.inference_mode():
        logits = model(examples.ids).logits[:, :-1]
    right = logits.argmax(-1) == examples.ids[:, 1:]
    return float(right[examples.answer[:, 1:]].float().mean())
