"""`python -m p3d` and `torchrun -m p3d` are the command `p3d`."""

import sys

from p3d.cli import main

sys.exit(main())
