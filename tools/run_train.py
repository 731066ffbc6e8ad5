"""Train with the command line of the older trainer: ``python tools/run_train.py --name … --config …``.

The same as ``lsf compat train``; see docs/migration.md.
"""

import sys

from lsf.cli import main

if __name__ == "__main__":
    sys.exit(main(["compat", "train", *sys.argv[1:]]))
