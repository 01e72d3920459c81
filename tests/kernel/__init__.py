"""Widgets in a real kernel, spoken to with raw messages as a front end does."""
