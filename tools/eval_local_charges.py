"""Label frames with the flags and names of the older script: ``--configs IN --model MODEL --output OUT``.

See docs/migration.md.
"""

import sys

from lsf.compat.eval_local_charges import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
