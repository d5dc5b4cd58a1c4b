"""Stable Diffusion 1, 2 and XL: their nets, by the names that diffusers gives the weights."""
