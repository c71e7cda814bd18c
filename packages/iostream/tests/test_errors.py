"""The exceptions of streams: what becomes of them in other processes."""

import copy
import pickle

from waterspout.iostream import StreamClosedError


class UnpicklableError(Exception):
    """Is pickled, but cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def test_a_real_error_that_cannot_be_pickled_becomes_text():
    for real_error in (UnpicklableError(1, 2), ValueError(lambda: None)):
        error = StreamClosedError(real_error, partial=b"some")
        assert copy.copy(error).real_error is real_error
        again = pickle.loads(pickle.dumps(error))
        assert type(again.real_error) is Exception  # and not None: that would be a clean end
        assert str(again.real_error) == repr(real_error)
        assert str(again) == str(error)
        assert again.partial == b"some"
