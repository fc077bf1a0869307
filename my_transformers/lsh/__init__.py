"""LSH attention (Reformer, Kitaev et al. 2020): O(n) attention among tokens that hash alike.

In the order in which to read it, after the definition (lsh_attention in my_transformers/reference.py):

    attention.py     the module: hash, sort, attend; steps for decoding
    hashing.py       rotations -> buckets -> sort
    bucketed.py      the fast form's one function, and its plan
    layout.py        sorted tokens in blocks
    scores.py        scores, their mask, dropout
    forward.py       a softmax over all rounds
    backward.py      its gradients without stored scores
    cache.py         what decoding keeps of earlier tokens
    transformers.py  another mechanism: the LSH attention of the transformers library, for models trained with it
"""
