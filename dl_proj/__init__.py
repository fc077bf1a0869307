"""Experiments with efficient attention: settings, data, models, training, evaluation, studies."""

from my_transformers import __version__ as __version__
