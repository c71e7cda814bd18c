"""Network."""

from waterspout.iostream.testing._link import Link
from waterspout.iostream.testing._network import SimulatedNetwork
