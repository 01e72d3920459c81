"""The page of one feature: what it is on for, what it writes, what becomes of a text with it."""
