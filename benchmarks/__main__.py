"""`python benchmarks`."""

import sys

import cases_concurrent  # noqa: F401
import cases_ioloop  # noqa: F401 (its cases register themselves)
import cases_locks  # noqa: F401
import cases_queues  # noqa: F401
import cases_streams  # noqa: F401
import cases_waiting  # noqa: F401
from harness import main

main(sys.argv[1:])
