"""Vectors and whole skies of which the models are known."""
