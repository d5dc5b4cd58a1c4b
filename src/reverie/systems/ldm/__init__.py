"""Latent diffusion (arXiv:2112.10752), of nothing in particular and of classes, with its vector-quantised autoencoders."""
