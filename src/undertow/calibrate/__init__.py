"""Planted canaries: which scores to trust on this data, how much of it is wrong, and where to cut."""
