"""One side of a matcher: the features of a picture, or the vector of a sentence, into the space that both share."""

from torch import nn

JOINT = 128  # width of the common space


def head(dim: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """(B, dim) -> (B, 128), not yet of length 1."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Dropout(dropout), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, JOINT))
