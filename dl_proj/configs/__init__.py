"""Presets, one YAML file each, and the typed schema that they are checked against."""
