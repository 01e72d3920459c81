"""Which texts, and which of their positions."""
