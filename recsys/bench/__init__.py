"""Benchmarks: each beside its peers, in one run, interleaved, with the machine and its bound; see `recsys bench`."""
