"""Figures and tables of dust."""
