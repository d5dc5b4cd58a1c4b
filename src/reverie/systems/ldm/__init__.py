"""Latent diffusion (arXiv:2112.10752): its vector-quantised autoencoders."""
