"""Classifying images, and how a classifier takes shifted ones."""
