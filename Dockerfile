# The image of the service. Arguments:
#   VARIANT          cpu or cuda: which torch must come out
#   TORCH_INDEX_URL  index with torch's builds of that variant; unset: pip's own, whose torch on Linux is for CUDA
#   EXTRAS           otel, quantization, fp8, ray; several with commas
#   BAKED_WEIGHTS    folder of the build context that becomes weights/default; other weights are mounted
#   BASE_IMAGE       Debian with Python 3.11 or newer as python3, with venv; both stages stand on it
#   REVISION         commit, for the label
# docs/deployment.md has the commands.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG VARIANT=cpu
ARG TORCH_INDEX_URL=
ARG EXTRAS=otel
WORKDIR /srv/armoserve
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CONSTRAINT="/srv/armoserve/constraints.txt /srv/armoserve/image-constraints.txt"
RUN case "${VARIANT}" in cpu|cuda) ;; *) echo "VARIANT is '${VARIANT}'; allowed: cpu, cuda" >&2; exit 1 ;; esac \
    && python3 -m venv .venv
ENV PATH=/srv/armoserve/.venv/bin:${PATH}
COPY constraints.txt deploy/image-constraints.txt ./
RUN pip install --no-compile --no-deps ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} torch \
    && python3 -c "import runpy, sys; found = runpy.run_path(sys.argv[2])['cuda'] and 'cuda' or 'cpu'; found == sys.argv[1] \
or sys.exit(f'this torch is for {found}, not {sys.argv[1]}; allowed: a TORCH_INDEX_URL or VARIANT that agree')" \
    "${VARIANT}" .venv/lib/python3*/site-packages/torch/version.py
# What the project needs, before its code: a change of the code leaves this layer as it is.
COPY pyproject.toml LICENSE ./
COPY app/__init__.py app/
RUN touch README.md && pip install --no-compile ".[${EXTRAS}]" && pip uninstall --quiet --yes armoserve
COPY README.md ./
COPY app app
# Bytecode that is never checked against its source: the file system is read-only, and the same build is the same bytes.
RUN pip install --no-compile --no-deps . \
    && pip check \
    && pip uninstall --quiet --yes pip \
    && rm -rf app build *.egg-info *constraints.txt pyproject.toml \
    && (python3 -m compileall -qq --invalidation-mode unchecked-hash .venv/lib || true) \
    && python3 -c "import app.main"

FROM ${BASE_IMAGE} AS serve
ARG BAKED_WEIGHTS=weights/default
ARG VARIANT=cpu
ARG REVISION=unknown
LABEL org.opencontainers.image.title="armoserve" \
      org.opencontainers.image.description="Serves readable, steerable rewards for RLHF" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      armoserve.variant="${VARIANT}"
RUN groupadd --gid 10001 armoserve \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/tmp --shell /usr/sbin/nologin armoserve
WORKDIR /srv/armoserve
COPY --from=build /srv/armoserve ./
COPY ${BAKED_WEIGHTS} weights/default
# All that is ever written goes to /var/tmp: the rest may be read-only.
ENV PATH=/srv/armoserve/.venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/var/tmp \
    HF_HOME=/var/tmp/huggingface \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    ARMOSERVE_HOST=0.0.0.0 \
    ARMOSERVE_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['ARMOSERVE_PORT'] + '/livez', timeout=4)"]
ENTRYPOINT ["python3", "-m", "app"]
CMD ["serve"]
