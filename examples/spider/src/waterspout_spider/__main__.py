"""`python -m waterspout_spider`."""

import sys

from waterspout_spider.cli import main

sys.exit(main())
