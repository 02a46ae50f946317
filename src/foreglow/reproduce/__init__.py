"""Every table and figure of the papers, from the public API."""
