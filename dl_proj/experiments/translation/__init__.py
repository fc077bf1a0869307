"""Translation: sentence pairs, training, scoring, translating."""
