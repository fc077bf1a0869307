"""Tables in README and docs, rendered from the committed results: python -m benchmarks.tables."""
