"""Write frames as shards: ``python tools/preprocess_data.py RECIPE --out FOLDER``, or with the old flags.

With a recipe the same as ``lsf shards``; with ``--train_file train.xyz --h5_prefix processed/ …``, the older
command line, the same as ``lsf compat preprocess``. See docs/data.md and docs/migration.md.
"""

import sys

from lsf.cli import main

if __name__ == "__main__":
    words = sys.argv[1:]
    of_recipe = bool(words) and (not words[0].startswith("-") or "--out" in words)
    sys.exit(main(["shards", *words] if of_recipe else ["compat", "preprocess", *words]))
