"""Whatever a user passes as an image, to RGB in 0-255 and to pixel values."""
