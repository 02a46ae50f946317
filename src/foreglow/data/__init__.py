"""Public data: what there is, where it lives, how it is fetched, what a file is."""
