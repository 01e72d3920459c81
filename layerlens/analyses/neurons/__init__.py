"""What single neurons read, write and do."""
