"""Words with weights, as A1111 gives them to CLIP's encoder."""

from torch import Tensor


def weighted(tokens: Tensor, weights: Tensor) -> Tensor:
    """What an encoder makes of words, tokens (B, L, D), each times its weight (B, L), the mean of each row as it was before.

    Rows whose weights are all 1 stay as they are, to the last bit.
    """
    made = tokens * weights[..., None].to(tokens)
    ratio = tokens.mean((1, 2), keepdim=True) / made.mean((1, 2), keepdim=True)
    return (made * ratio).where((weights != 1).any(1)[:, None, None].to(tokens.device), tokens)
