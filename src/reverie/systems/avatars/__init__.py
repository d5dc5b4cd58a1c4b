"""reverie-avatars: drawn faces from words, four styles, 64 px."""
