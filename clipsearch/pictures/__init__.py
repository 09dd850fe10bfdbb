"""Files to pixels: which files are pictures, what they say of themselves, damage, colour, and the decode processes."""
