"""What can be read from a layer by something that learns?"""
