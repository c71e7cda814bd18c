"""A queue for coroutines that loses nothing, however its users are cancelled.

Rules:

1.  First come, first served, on both sides. A woken getter owns a *reservation* of one item, a
    woken putter one of a place; nobody who comes later can take it.
2.  A `put` or `get` that raises did nothing. A reservation whose task is cancelled before it
    resumes goes to the next in line, so neither an item nor a place is lost.
3.  What needs no waiting does not yield to the event loop.
4.  A queue may be made anywhere, also before there is a loop, and used in one loop after
    another; tasks of two open loops never wait in the same one (`RuntimeError`).
5.  Other threads use its `threadside`, with the same guarantees. The queue itself is used from
    one thread at a time.
"""

from waterspout.queues._errors import QueueEmpty, QueueFull, QueueShutDown
from waterspout.queues._orders import LifoQueue, PriorityQueue
from waterspout.queues._queue import Queue
from waterspout.queues._threadside import ThreadSide

__all__ = [
    "LifoQueue",
    "PriorityQueue",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "ThreadSide",
]
