"""Relative positions (Horn et al. 2021): attention.py, clipped.py, and the grid that tokens stand on."""
