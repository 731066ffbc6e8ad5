"""Executors of the sum over neighbours: :mod:`lsf.models.convolution` states what they compute."""
