"""Your own pictures: a folder with captions, classes, or nothing but images."""
