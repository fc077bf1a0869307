"""Translation: sentence pairs, training, evaluation, use."""
