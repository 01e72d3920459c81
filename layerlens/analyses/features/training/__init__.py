"""How a dictionary is learned."""
