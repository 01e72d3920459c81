"""What does each part add to a logit?"""
