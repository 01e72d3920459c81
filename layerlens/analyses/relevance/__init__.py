"""What does an answer lean on, token by token and layer by layer?"""
