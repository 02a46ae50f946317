"""Parametric models fitted to pixels, and a model chosen by its fit."""
