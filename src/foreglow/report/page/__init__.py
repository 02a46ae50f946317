"""One self-contained page, its tables and its interactive sky."""
