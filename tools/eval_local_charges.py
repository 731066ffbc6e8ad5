"""Label frames with the flags and names of the older script: ``--configs IN --model MODEL --output OUT``.

The same as ``lsf compat eval``; see docs/migration.md.
"""

import sys

from lsf.cli import main

if __name__ == "__main__":
    sys.exit(main(["compat", "eval", *sys.argv[1:]]))
