"""Autoencoders of pictures, trained from nothing: the space in which latent diffusion runs."""
