"""Plot the terms of the loss over a training: ``python tools/plot_batch_losses.py LOG``.

The same as ``lsf compat plot-losses``; see docs/migration.md.
"""

import sys

from lsf.cli import main

if __name__ == "__main__":
    sys.exit(main(["compat", "plot-losses", *sys.argv[1:]]))
