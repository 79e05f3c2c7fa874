"""Speed, measured: bench/micro.py for single steps, bench/serving for the whole service beside others."""
