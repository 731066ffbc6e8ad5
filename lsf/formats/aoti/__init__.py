"""Compiled packages (AOTInductor)."""
