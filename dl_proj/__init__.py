"""The experiments: configurations, data, models, tasks."""
