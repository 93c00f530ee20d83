"""Data sets behind one interface: picture, image-level labels, optional label map, id."""
