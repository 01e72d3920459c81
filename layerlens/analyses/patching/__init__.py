"""Which activations carry the difference of two texts?"""
