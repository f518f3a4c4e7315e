"""Linears on a card: ours, the mainstream's and the library's, in one run."""
