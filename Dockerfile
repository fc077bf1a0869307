# The project with its locked requirements; `docker run` shows it at work, see docs/start.md.
#
#   docker build --tag dl-proj .
#   docker build --tag dl-proj --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 .
#
# Any base with apt works. PyTorch's wheels bring CUDA along: on a machine with NVIDIA's container toolkit, images of
# either base compute on the GPU with `docker run --gpus all`.
ARG BASE=python:3.12-slim
FROM ${BASE}

# What Triton and torch.compile call is a C compiler, with Python's headers. The versions are those of the base's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev make \
    && { command -v python3 > /dev/null || apt-get install --yes --no-install-recommends python3-dev python3-venv; } \
    && rm -rf /var/lib/apt/lists/*

# Files in mounted folders belong to this user: --build-arg UID="$(id -u)" makes them yours.
ARG UID=1000
RUN useradd --no-log-init --non-unique --uid "${UID}" --user-group --create-home --shell /bin/bash researcher \
    && install --directory --owner=researcher --group=researcher /app /opt/venv
USER ${UID}
WORKDIR /app

# The Makefile finds an environment here that is as complete as its own would be.
ENV VENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --chown=researcher:researcher requirements.txt requirements.lock ./
RUN python3 -m venv "$VENV" \
    && "$VENV/bin/python" -m pip install --no-cache-dir --require-hashes --requirement requirements.lock \
    && touch "$VENV/.installed"

COPY --chown=researcher:researcher . .
CMD ["make", "demo"]
