"""Relative positions (Horn et al. 2021): attention.py, clipped.py, and grid.py with the tokens' coordinates."""
