"""Widgets and their live jobs; they show what analyses compute and compute nothing themselves."""
