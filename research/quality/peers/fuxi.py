"""FuxiCTR's models, trained by its own loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from tqdm import tqdm

from research.quality.peers import CANDIDATES, PeerResult, PeerSettings, timed
from research.quality.peers.fuxi_models import INPUT_KINDS, fuxi_model, pools
from research.quality.peers.inputs import Batches, Inputs
from research.quality.peers.samples import PeerSamples
from research.trials import one_thread

_SCORED_AT_ONCE = 2048


def train_fuxi(
    name: str, samples: PeerSamples, settings: PeerSettings, seed: int, folder: Path, progress: bool = True
) -> PeerResult:
    """One of ``INPUT_KINDS`` by FuxiCTR's ``fit``: its optimizer, gradient clipping, falling learning rate and
    early stopping; it keeps the weights of the best epoch in ``folder``."""
    train = samples.training(settings.train_fraction, seed)
    inputs = Inputs(INPUT_KINDS[name], samples, settings, train, pools(name, settings))
    encoder = inputs.encoder(samples)
    with one_thread(), _logging_left_alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fuxi_model(name, inputs, settings, folder)
        start = perf_counter()
        generator = np.random.default_rng(seed)
        steps = len(Batches(encoder, train, settings.batch_size, generator))
        with tqdm(
            total=settings.epochs * steps, desc=f"  {name}", unit="batch", mininterval=1.0, disable=not progress
        ) as bar:
            model.fit(
                Batches(encoder, train, settings.batch_size, generator, bar),
                bar,
                epochs=settings.epochs,
                validation_data=Batches(encoder, samples.of("validation"), _SCORED_AT_ONCE),
            )
            bar.total = bar.n
        seconds = perf_counter() - start
        validation, test = (
            model.predict(Batches(encoder, samples.of(split), _SCORED_AT_ONCE)) for split in ("validation", "test")
        )
        request = inputs.encoder(samples.one_user(CANDIDATES, seed)).batch(np.arange(CANDIDATES))
        with torch.inference_mode():
            ms_per_500 = timed(lambda: model.forward(request))
    return PeerResult(
        validation.astype(np.float32),
        test.astype(np.float32),
        tuple(model.validation_auc),
        ms_per_500,
        sum(weight.numel() for weight in model.parameters()),
        seconds,
    )


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    """FuxiCTR logs by ``logging.info``, which gives the root logger of a process that has none a handler of its own:
    from then on everything that any library logs would be printed."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
