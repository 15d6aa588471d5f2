"""Drops single records from the log of another library while a block runs."""

import contextlib
import logging
from collections.abc import Callable, Iterator

__all__ = ["filter_log"]


@contextlib.contextmanager
def filter_log(name: str, keeps: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Let a logger drop, within the block, the records for which `keeps` returns False.

    Args:
        name: the name of the logger. Loggers below it are not filtered.
        keeps: returns whether a record is logged.
    """
    logger = logging.getLogger(name)
    logger.addFilter(keeps)
    try:
        yield
    finally:
        logger.removeFilter(keeps)
