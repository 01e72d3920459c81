"""How does a model hold a number?"""
