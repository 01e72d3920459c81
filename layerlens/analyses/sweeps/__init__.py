"""Many edited or clean runs of one text, cell by cell."""
