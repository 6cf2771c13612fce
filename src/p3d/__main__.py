"""Run the command `p3d` as `python -m p3d` or `torchrun -m p3d`."""

import sys

from p3d.cli import main

sys.exit(main())
