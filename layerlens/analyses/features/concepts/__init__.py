"""What a layer's activations are made of: a few non-negative factors, and which an answer needs."""
