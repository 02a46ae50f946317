"""A user's maps and noise, opened together and read a block at a time."""
