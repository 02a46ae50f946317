"""Features, networks and their training."""
