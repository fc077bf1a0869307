"""Models composed from my_transformers, their settings, and the builders between the two."""
