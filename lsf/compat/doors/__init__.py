"""Names that earlier documents import, each a door to where the thing is now.

``lsf`` looks here last for its submodules: ``lsf.deploy.ase`` is ``lsf/compat/doors/deploy/ase.py``.
"""
