"""Many texts: read one after the other, measured in shards, here or on a Ray cluster."""
