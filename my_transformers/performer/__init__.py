"""Performer attention (Choromanski et al. 2021).

Read attention.py first, then features.py, base.py and kernel_attention.py.
"""
