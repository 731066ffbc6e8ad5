"""Executors by packages that a user may have installed."""
