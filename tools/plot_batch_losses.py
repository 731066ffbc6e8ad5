"""Plot the terms of the loss over a training: ``python tools/plot_batch_losses.py LOG``.

See docs/migration.md.
"""

import sys

from lsf.compat.batch_losses import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
