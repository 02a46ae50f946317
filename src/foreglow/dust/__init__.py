"""Dust from the velocity cube of neutral hydrogen (Zhang et al. 2019)."""
