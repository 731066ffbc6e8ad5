"""Moved to :mod:`lsf.engines.ipi`."""

from lsf.engines.ipi import LsfDriver, main

__all__ = ["LsfDriver", "main"]

if __name__ == "__main__":
    main()
