"""The nine systems of Tables 1 and 2, each from its paper, on one backbone and one image-text model."""
