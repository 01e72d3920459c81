"""What a run answered, as a number: metrics of an answer, distances between outputs."""
