"""Keeping transformers silent while it loads and generates, without changing its settings for anyone else."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Show neither transformers' progress bars nor its advice; errors are raised, not logged, so none is lost."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def quiet_conversion() -> Iterator[None]:
    """As quiet_transformers; also hides the bar of the GGUF conversion, which listens to no setting."""
    from transformers import modeling_gguf_pytorch_utils as conversion

    shown = conversion.tqdm
    conversion.tqdm = partial(shown, disable=True)
    try:
        with quiet_transformers():
            yield
    finally:
        conversion.tqdm = shown
