"""How many keys and places for queries there are; without torch, for settings."""


def n_keys_of(vocab_size: int) -> int:
    """Keys in a vocabulary, half of it with the blank."""
    return vocab_size // 2 - 1


def n_slots_of(length: int, n_pairs: int) -> int:
    """Places of two tokens after the pairs, each for a query and what follows it."""
    return length // 2 - n_pairs
