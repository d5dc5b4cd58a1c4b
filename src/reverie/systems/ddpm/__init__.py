"""DDPM: diffusion of pixels, from folders in diffusers' layout, and from ported files of its first code."""
