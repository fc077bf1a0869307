"""Tokenizers and encodings, for language models and translation."""
