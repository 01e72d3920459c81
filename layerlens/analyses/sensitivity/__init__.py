"""How strongly does the loss pull at each layer, and how do changes grow?"""
