"""Along which edges does it travel?"""
