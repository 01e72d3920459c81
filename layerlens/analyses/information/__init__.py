"""What do states tell about the classes of texts?"""
