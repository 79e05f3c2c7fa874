"""Progress of long work, with an estimate of the time that is left: a bar on a terminal; elsewhere a plain line now and
then, so that the log of a cron job can be read."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

_BAR_SECONDS = 0.5
LINE_SECONDS = 30.0
"""Between two lines where there is no terminal. Work that takes less prints none."""


class Progress:
    """Progress of one piece of work, on standard error, until the block ends; ``units`` is a plural.

    ``done`` units of the ``total`` were done before and took no time; without ``shown`` nothing is printed.
    """

    def __init__(self, title: str, total: int, units: str, *, done: int = 0, shown: bool = True) -> None:
        self._title, self._total, self._units = title.strip(), total, units
        self._before = self._done = done
        self._note = ""
        self._started = self._last_line = time.monotonic()
        self._prints_lines = shown and not sys.stderr.isatty()
        self._last_done: int | None = None
        self._bar = tqdm(
            total=total, initial=done, desc=f"  {self._title}", unit=f" {units}", mininterval=_BAR_SECONDS,
            maxinterval=_BAR_SECONDS, file=sys.stderr, disable=not shown or self._prints_lines,
        )  # fmt: skip

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._last_done is not None and self._last_done < self._done:
            self._print_line()
        self._bar.close()

    def advance(self, units: int = 1, note: str = "") -> None:
        """So many ``units`` more are done; a ``note`` stays until the next one."""
        self._done += units
        if note:
            self._note = note
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(units)
        self._print_line_if_due()

    def tick(self) -> None:
        """Show that the work goes on, also while nothing more is done for long."""
        self._bar.refresh()
        self._print_line_if_due()

    def end_early(self) -> None:
        """What is done is all that there was to do."""
        self._total = self._bar.total = self._done

    def _print_line_if_due(self) -> None:
        if self._prints_lines and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line, self._last_done = time.monotonic(), self._done
        print(f"  {self.line(self._last_line - self._started)}", file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Progress after so many ``seconds`` of work, in words."""
        share = f", {self._done / self._total:.0%}" if self._total else ""
        new, left = self._done - self._before, self._total - self._done
        estimate = ""
        if left > 0:
            estimate = f", about {duration(seconds / new * left)} left" if new > 0 else f", {duration(seconds)} so far"
        note = f" ({self._note})" if self._note else ""
        return f"{self._title}: {self._done:,} of {self._total:,} {self._units}{share}{estimate}{note}"


def duration(seconds: float) -> str:
    """Seconds in the words of people: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
