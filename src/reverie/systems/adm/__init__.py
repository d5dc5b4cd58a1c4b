"""ADM: diffusion of pixels guided by a classifier, from its authors' files."""
