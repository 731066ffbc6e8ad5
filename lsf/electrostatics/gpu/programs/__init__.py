"""Triton code only: functions compiled for a GPU, one module per operation."""
