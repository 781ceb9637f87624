"""`python -m nsa.smoke`."""

import sys

from nsa.smoke.command import main

sys.exit(main())
