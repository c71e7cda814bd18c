"""What holds for the tests of every package."""

from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("waterspout", deadline=None)
settings.load_profile("waterspout")
