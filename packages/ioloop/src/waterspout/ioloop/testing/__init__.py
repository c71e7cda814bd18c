"""Time."""
from waterspout.ioloop.testing._loop import SimulatedLoop, simulate, DeadlockError, EndlessError
from waterspout.ioloop.testing._explore import *
from waterspout.ioloop.testing._cancel import *
