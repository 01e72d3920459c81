"""What would the model answer here, at this depth?"""
