"""Performer attention (Choromanski et al. 2021). Read attention.py first, then features.py, kernel_attention.py."""
