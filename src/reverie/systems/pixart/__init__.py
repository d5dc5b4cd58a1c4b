"""PixArt: its net, by the names that diffusers gives the weights."""
