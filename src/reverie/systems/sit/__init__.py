"""SiT: the net of DiT, trained as an interpolant."""
