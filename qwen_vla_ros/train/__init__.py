"""Training: a run is a named function that returns a full configuration."""
