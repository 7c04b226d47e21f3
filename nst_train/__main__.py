"""``python -m nst_train`` and ``torchrun -m nst_train``: the same as ``nst-train``."""

import sys

from nst_train.cli import main

sys.exit(main())
