FROM debian:trixie-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev python3-pip && rm -rf /var/lib/apt/lists/*
RUN python3 -m pip install --no-cache-dir --target /opt/uv uv==0.13.8
ENV PATH=/opt/uv/bin:$PATH UV_NO_CACHE=1 UV_PYTHON=/usr/bin/python3
# The user of the image cannot write bytecode into .venv, and without it TensorFlow starts seconds slower.
ENV UV_COMPILE_BYTECODE=1
WORKDIR /app
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project
COPY README.md ./
COPY components components
COPY pipeline pipeline
COPY serving serving
RUN uv sync --frozen --no-dev --no-editable

FROM debian:trixie-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3 && rm -rf /var/lib/apt/lists/* && \
    useradd --uid 10001 --create-home retrain && install --directory --owner retrain /app/data /app/state
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY configs configs
COPY schemas schemas
ENV PATH=/app/.venv/bin:$PATH
USER 10001
VOLUME ["/app/data", "/app/state"]
ENTRYPOINT ["retrain"]
CMD ["--help"]
