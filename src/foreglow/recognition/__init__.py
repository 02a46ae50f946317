"""Recognise which foreground model holds in each pixel."""
