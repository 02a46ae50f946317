"""Spatial context: what the neighbours of a pixel say about its model."""
