"""Train with the command line of the older trainer: ``python tools/run_train.py --name … --config …``.

See docs/migration.md; ``--print-recipe`` shows the recipe to go on with.
"""

import sys

from lsf.compat.run_train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
