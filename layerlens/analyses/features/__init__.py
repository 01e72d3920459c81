"""Which features is a layer made of?"""
