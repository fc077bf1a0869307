"""LSH attention (Reformer, Kitaev et al. 2020): attention within hash buckets, in time linear in the length.

Read the definition first (lsh_attention in my_transformers/reference.py), then these files in order:

    attention.py     the module: hash, sort, attend; step-by-step decoding
    hashing.py       rotations -> buckets -> sort
    bucketed.py      entry point of the fast implementation, with an overview
    layout.py        sorted tokens in blocks
    scores.py        scores, their mask, dropout
    forward.py       one softmax over all rounds
    backward.py      its gradients, without stored scores
    cache.py         the cache for decoding
    transformers.py  another mechanism: LSH attention as the transformers library computes it
"""
