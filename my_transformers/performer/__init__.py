"""Performer attention (Choromanski et al. 2021): O(n) attention by random features.

In the order in which to read it, after the definition (performer_attention in my_transformers/reference.py):

    attention.py      the module: its random directions
    base.py           what it shares with other feature maps: forward, steps and the cache for decoding
    features.py       random directions, and the feature maps
    bidirectional.py  attention to all keys: two sums
    causal.py         attention to earlier keys: prefix sums from chunk to chunk
    recompute.py      what these two share
    triton_*.py       both of them in a few kernels, on a GPU, for exponential features
"""
