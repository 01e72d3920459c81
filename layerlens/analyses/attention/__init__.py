"""Who looks where: the attention of every head, and what it amounts to."""
