"""LSH attention (Reformer, Kitaev et al. 2020). Read attention.py first, then hashing.py, then bucketed.py."""
