"""One pass through a model: read sites, replay blocks."""
