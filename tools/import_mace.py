"""Make a model file of lsf from the weights of a mace-torch model: ``WEIGHTS OUT [--head NAME]``.

The same as ``lsf import-mace``. The weights come from ``tools/export_mace_weights.py``. See
docs/foundation_models.md.
"""

import sys

from lsf.cli import main

if __name__ == "__main__":
    sys.exit(main(["import-mace", *sys.argv[1:]]))
