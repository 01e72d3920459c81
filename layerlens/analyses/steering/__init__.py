"""What does a direction do?"""
