"""What does each layer do, over many texts, models and weights?"""
