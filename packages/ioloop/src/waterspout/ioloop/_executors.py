"""What is known of an executor."""

import concurrent.futures


def shares_our_memory(executor: concurrent.futures.Executor) -> bool:
    """Whether an executor is known to run functions in this process and interpreter."""
    if not isinstance(executor, concurrent.futures.ThreadPoolExecutor):
        return False
    elsewhere = getattr(concurrent.futures, "InterpreterPoolExecutor", None)
    return elsewhere is None or not isinstance(executor, elsewhere)
