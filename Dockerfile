# syntax=docker/dockerfile:1
# The gateway as it runs in production: without a compiler, without root, and writing to /data alone.
#
#   docker build -t carillon .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges -p 8080:8080 \
#     -v carillon-data:/data -v ./carillon.toml:/etc/carillon/carillon.toml:ro -v ./keys:/etc/carillon/keys:ro carillon

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/carillon
WORKDIR /src
# Dependencies first: they change more seldom than the code. Every file is checked against its hash in the lock.
COPY requirements.lock ./
RUN /opt/carillon/bin/pip install --require-hashes --only-binary :all: -r requirements.lock
# What builds the wheel is locked too, and stays behind in this stage.
COPY requirements-dev.lock ./
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-dev.lock
COPY pyproject.toml README.md LICENSE ./
COPY providers providers
COPY gateway gateway
COPY bench bench
RUN /opt/build/bin/python -m hatchling build -t wheel -d /dist \
    && /opt/carillon/bin/pip install --no-deps --no-index /dist/*.whl \
    && /opt/carillon/bin/python -m compileall -q -j 0 /opt/carillon/lib \
    && rm -rf /opt/carillon/lib/python3.11/site-packages/pip /opt/carillon/bin/pip*

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 carillon \
    && useradd --uid 10001 --gid carillon --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin carillon \
    && install -d -o carillon -g carillon -m 0700 /data \
    && python -m pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel
COPY --from=build /opt/carillon /opt/carillon
# Everything else comes from /etc/carillon/carillon.toml or more CARILLON_ variables.
ENV PATH=/opt/carillon/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CARILLON_HTTP__HOST=0.0.0.0 \
    CARILLON_QUEUE__PATH=/data/carillon.db
WORKDIR /etc/carillon
USER 10001:10001
VOLUME /data
EXPOSE 8080
# The gateway drains on SIGTERM and has left after 25 seconds: give it `--stop-timeout 30`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
ENTRYPOINT ["carillon"]
CMD ["serve"]
