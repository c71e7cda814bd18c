"""`no_reference_cycles` of the testing kit."""

import gc

import pytest

from waterspout.ioloop.testing import no_reference_cycles


class Node:
    pass


def make_cycle():
    node = Node()
    node.itself = node


def test_a_cycle_is_found_and_named():
    with pytest.raises(AssertionError, match=r"(?s)objects wait for the garbage.*Node"):
        with no_reference_cycles():
            make_cycle()


def test_what_cannot_be_described_is_named_all_the_same():
    class Torn(Node):
        def __repr__(self):
            raise LookupError("half torn down")

    with pytest.raises(AssertionError, match=r"Torn>?, whose repr raises LookupError"):
        with no_reference_cycles():
            torn = Torn()
            torn.itself = torn
            del torn


def test_what_is_freed_at_once_is_no_cycle():
    with no_reference_cycles():
        node = Node()
        node.other = Node()
        del node


def test_cycles_from_before_do_not_count():
    make_cycle()
    with no_reference_cycles():
        pass


def test_what_is_ignored_does_not_count():
    with no_reference_cycles(ignore=lambda one: isinstance(one, Node | dict)):
        make_cycle()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled):
    was_enabled, garbage = gc.isenabled(), len(gc.garbage)
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(AssertionError):
            with no_reference_cycles():
                make_cycle()
        assert gc.isenabled() is enabled
        assert gc.get_debug() == 0
        assert len(gc.garbage) == garbage
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_a_block_that_raises_keeps_its_exception():
    with pytest.raises(KeyError):
        with no_reference_cycles():
            make_cycle()
            raise KeyError


async def test_in_a_coroutine():
    with no_reference_cycles():
        node = Node()
        del node
