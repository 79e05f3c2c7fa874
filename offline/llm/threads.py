"""How torch's threads wait for each other."""

import os


def wait_without_spinning() -> None:
    """Let torch's OpenMP threads sleep while they wait; call it before the first import of torch.

    By default they spin. On a machine that something else also uses (cron jobs beside a service), a spinning thread
    keeps the core from the one it waits for: measured with SmolLM2, batch 64, on 2 cores that were busy elsewhere,
    20 tokens/s spinning against 390 sleeping. A choice made in the environment is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
