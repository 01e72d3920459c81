"""What is lost without this part?"""
