"""The Long Range Arena (Tay et al. 2021): classification of sequences of 1,000 to 16,000 tokens."""
