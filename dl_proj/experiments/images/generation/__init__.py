"""Generating images pixel by pixel, given a class."""
