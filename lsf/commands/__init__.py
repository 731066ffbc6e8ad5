"""The commands of ``lsf``: what each one does, and what it says while it does it."""
