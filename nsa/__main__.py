"""`python -m nsa`, and so `torchrun -m nsa train …`."""

import sys

from nsa.cli import main

sys.exit(main())
