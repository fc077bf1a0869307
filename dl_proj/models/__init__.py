"""Models composed from my_transformers, their settings, and builders from one to the other."""
