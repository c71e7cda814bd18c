"""What a queue says when it cannot do what it is asked for."""


class QueueEmpty(Exception):
    """`Queue.get_nowait` found nothing to take."""


class QueueFull(Exception):
    """`Queue.put_nowait` found no place."""


class QueueShutDown(Exception):
    """The queue was shut down: it takes no items, and has none for the caller."""
