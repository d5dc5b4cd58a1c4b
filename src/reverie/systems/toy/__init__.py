"""Points in the plane: the smallest training there is, with an exact truth to compare with."""
