"""Fitting a model to labels: losses, optimizers, stages, evaluation, checkpoints, error tables."""
