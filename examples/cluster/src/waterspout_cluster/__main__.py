"""`python -m waterspout_cluster`."""

from waterspout_cluster.cli import main

main()
