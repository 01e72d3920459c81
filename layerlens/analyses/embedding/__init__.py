"""How does a model make one vector of a text, and what disturbs it?"""
