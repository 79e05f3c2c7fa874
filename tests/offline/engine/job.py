"""`python -m tests.offline.engine.job JOB ...`: the jobs, with chunks of hidden states so small that there are several.

Chunks are cut in the job's own process; its workers run as they always do.
"""

from offline.__main__ import main
from offline.knowledge.marc import store

if __name__ == "__main__":
    store._CHUNK = 16
    main()
