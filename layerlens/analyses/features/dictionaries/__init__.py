"""Dictionaries without a model: encode, decode, normalise, fold, and their files."""
