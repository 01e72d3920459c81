"""What does a state from elsewhere do: from a later layer, from another model?"""
