"""A job that the crash test starts and kills: `python -m tests.offline.llm.crash_child BASE_URL WORKDIR OUT`."""

import json
import sys
from pathlib import Path

from offline.llm.config import LLMConfig
from offline.llm.protocol import Prompt
from offline.llm.session import open_session

CONCURRENCY = 4
TEXTS = [f"film {n % 150} " + "x" * (n % 150 * 31 % 17) for n in range(170)]  # twenty of them twice


def main() -> None:
    base_url, workdir, out = sys.argv[1:]
    config = LLMConfig(backend="openai", base_url=base_url, model="tiny", concurrency=CONCURRENCY)
    with open_session(config, Path(workdir)) as llm:
        texts = llm.ask_all([Prompt((("user", text),), max_tokens=16) for text in TEXTS], "crash test").texts
    Path(out).write_text(json.dumps(texts))


if __name__ == "__main__":
    main()
