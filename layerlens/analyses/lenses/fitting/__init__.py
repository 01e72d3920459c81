"""Lenses that are fitted: the states of many texts, the maps, and how well they do."""
