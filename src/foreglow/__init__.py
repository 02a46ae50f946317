"""foreglow learns CMB foregrounds."""
