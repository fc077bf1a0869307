"""Experiments with efficient attention: settings, data, models, training, evaluation, studies."""
