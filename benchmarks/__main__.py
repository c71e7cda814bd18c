"""`python benchmarks`."""

import sys

import cases_ioloop  # noqa: F401 (its cases register themselves)
from harness import main

main(sys.argv[1:])
