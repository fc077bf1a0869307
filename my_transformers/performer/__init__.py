"""Performer attention (Choromanski et al. 2021): attention by random features, in time linear in the length.

Read the definition first (performer_attention in my_transformers/reference.py), then these files in order:

    attention.py      the module and its random directions
    base.py           shared by all feature maps: forward, step-by-step decoding and its cache
    features.py       random directions, and the feature maps
    bidirectional.py  attention to all keys: two sums over keys
    causal.py         attention to earlier keys: prefix sums, chunk by chunk
    recompute.py      shared by these two: recomputing features in backward
    triton_*.py       both in a few kernels, on a GPU, for exponential features
"""
