"""Survey cubes of the 21 cm line, streamed onto HEALPix."""
