#!/bin/sh
# Install the peers that pip's `bench` extra cannot bring: Debian's redis-server, and, each in an environment of its own, Feast
# (.venv-feast), DeepGNN (.venv-deepgnn) and LinkedIn's Flyte plugin for data services (.venv-flyteplugin).
# Idempotent. Redis is not started here: benchmarks start one of their own on 127.0.0.1 and stop it.
set -eu
cd "$(dirname "$0")/.."

if command -v redis-server >/dev/null; then
    echo "redis-server: already here"
elif command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "redis-server: installing from Debian"
    # RUNLEVEL=1 keeps the package from starting its service.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends redis-server ||
        { apt-get update -q && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends redis-server; }
else
    echo "redis-server: not installed; install it with your system's packages (the benchmarks run without it and say so)"
fi

if .venv-feast/bin/python -c 'import feast' 2>/dev/null; then
    echo "Feast: already here"
else
    echo "Feast: installing into .venv-feast"
    "${PYTHON:-python3}" -m venv .venv-feast
    .venv-feast/bin/pip install -q -c benchmarks/feast-constraints.txt 'feast[duckdb,redis]' hiredis
fi

if .venv-deepgnn/bin/python -c 'import deepgnn' 2>/dev/null; then
    echo "DeepGNN: already here"
else
    echo "DeepGNN: installing into .venv-deepgnn"
    "${PYTHON:-python3}" -m venv .venv-deepgnn
    .venv-deepgnn/bin/pip install -q 'deepgnn-ge==0.1.66'
fi

if .venv-flyteplugin/bin/python -c 'import flytekitplugins.k8sdataservice' 2>/dev/null; then
    echo "Flyte plugin: already here"
else
    echo "Flyte plugin: installing into .venv-flyteplugin"
    "${PYTHON:-python3}" -m venv .venv-flyteplugin
    .venv-flyteplugin/bin/pip install -q 'flytekitplugins-k8sdataservice==1.16.31' 'flytekit[connector]==1.16.31'
fi
