"""reverie-emoji: any words to a picture of 64 px in the style of three sets of emoji."""
