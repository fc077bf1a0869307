"""Linformer attention (Wang et al. 2020). Read attention.py first, then projection.py."""
