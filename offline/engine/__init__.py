"""Where the heavy part of a job runs: in this process, or on the workers of a Ray cluster (docs/scale.md)."""
