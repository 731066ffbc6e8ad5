"""Executors of the sum over neighbours, chosen by ``model.kernels``: how it is computed, not what.

What is computed stands in :mod:`lsf.models.convolution`; nobody who reads about the physics needs this
folder.

================  ============================================================================================
module            executor, and what it is for
================  ============================================================================================
reference         "e3nn": the formula itself, edge by edge in float64. Tests compare all others with it
plain             "plain": the padded table of neighbours in one piece; exports trace it
native            "native", "auto": block by block of receivers, in the processor's cache, first and second
                  derivatives written by hand. The default, for training and simulation in Python
compiled          no name of its own: what "native" does where code is compiled, in packages of AOTInductor
and
                  with ``training.compile``; functions of one block are compiled, blocks are called in a loop
triton            "triton": GPU programs, one per receiver, path and block of channels
vendors           "cuequivariance": a package of NVIDIA that a user may have installed
================  ============================================================================================

:mod:`~lsf.models.message_passing.executors` has what they share and the choice by name,
:mod:`~lsf.models.message_passing.neighborhood` the neighbour list in their layouts.
"""
