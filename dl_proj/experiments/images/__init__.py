"""Images as sequences: reading them, splits, patches."""
