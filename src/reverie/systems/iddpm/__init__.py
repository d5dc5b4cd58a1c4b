"""Improved DDPM: diffusion of pixels whose variance is learnt, too, from its authors' files."""
