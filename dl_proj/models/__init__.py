"""Models, composed from my_transformers, and the builders that turn configurations into them."""
