"""Why a producer cannot make its frozen parts yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from offline.data.catalogue import DataError


class TooFewError(DataError):
    """There is too little to fit frozen parts on. ``needs`` says what it takes and what there is, after "needs"."""

    def __init__(self, needs: str) -> None:
        super().__init__(f"too little to fit on: needs {needs}")
        self.needs = needs


class NotFittedError(RuntimeError):
    """A producer cannot make its frozen parts yet, because texts of the training period are still missing.

    Founding on what happens to be there would make another space than an undisturbed run would.
    """


class TooLittleDataError(NotFittedError):
    """A producer cannot make its frozen parts yet, because the training period holds too little to fit them on.

    No text is owed: the run is complete without it, and the log has to grow.
    """


@contextmanager
def enough_for(producer: str) -> Iterator[None]:
    """Within, what is too little to fit on is a TooLittleDataError of this producer: it waits, the others go on."""
    try:
        yield
    except TooFewError as error:
        raise TooLittleDataError(f"{producer} needs {error.needs}") from error
