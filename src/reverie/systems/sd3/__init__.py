"""Stable Diffusion 3 and 3.5: their net, by the names that others give the weights."""
