"""Flux.1 dev and schnell: their net, by the names that others give the weights."""
