"""Alias of my_transformers/lsh/hashing.py."""

from my_transformers.lsh.hashing import *  # noqa: F403
