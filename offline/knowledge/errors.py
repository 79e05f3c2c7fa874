"""Why a producer cannot make its frozen parts yet."""

from __future__ import annotations

from offline.data.catalogue import DataError


class TooFewError(DataError):
    """There is too little to fit frozen parts on. ``needs`` says what it takes and what there is, after "needs".

    No text is owed: the run is complete without the producer, and the log has to grow.
    """

    def __init__(self, needs: str) -> None:
        super().__init__(f"too little to fit on: needs {needs}")
        self.needs = needs


class NotFittedError(RuntimeError):
    """A producer cannot make its frozen parts yet, because texts of the training period are still missing.

    Fitting them on the texts that happen to be there would make another space than an undisturbed run would.
    """
