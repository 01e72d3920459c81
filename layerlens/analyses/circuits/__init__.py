"""Which parts, joined to a graph, make an answer?"""
