"""HEALPix plumbing, no science."""
