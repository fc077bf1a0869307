"""The numbers of keys and of query slots; does not import torch, for use in settings."""


def n_keys_of(vocab_size: int) -> int:
    """Return the number of keys; with the blank, they are half of the vocabulary."""
    return vocab_size // 2 - 1


def n_slots_of(length: int, n_pairs: int) -> int:
    """Return the number of two-token slots after the pairs, each for a query and its successor."""
    return length // 2 - n_pairs
