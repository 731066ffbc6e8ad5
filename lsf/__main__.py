"""``python -m lsf`` is the same as ``lsf``."""

from lsf.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
