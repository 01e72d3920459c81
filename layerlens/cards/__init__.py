"""A card of a model: what it was proven to be, what its layers do, what its author says of it."""

from layerlens.cards.card import Card, Part, Sheet
from layerlens.cards.make import card

__all__ = ["Card", "Part", "Sheet", "card"]
