"""The copy task of the Reformer paper: a model repeats a random word."""
