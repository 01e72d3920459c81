"""What is looked at: a Hugging Face model, its anatomy and the proof that it is right."""
