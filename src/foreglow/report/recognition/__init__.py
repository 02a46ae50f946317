"""Figures and tables of recognition."""
