"""Image experiments: data, classification, generation."""
