# One image for every node of a cluster: head, front, draft, target and verifier (deploy/kubernetes). From the root of
# the repository:
#   docker build --tag lookahead-serve:0.1.0 .
# Without GPUs, for the profile `local`:
#   docker build --tag lookahead-serve:0.1.0-cpu --build-arg HARDWARE=cpu .
#   docker run --shm-size 2g --publish 127.0.0.1:8000:8000 lookahead-serve:0.1.0-cpu lookahead serve --host 0.0.0.0
# vLLM's wheel brings its own CUDA libraries; the driver, 580 or newer, comes from the host (NVIDIA Container Toolkit).
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY actors actors
COPY deployments deployments
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.11-slim-bookworm
# A compiler for the kernels that Triton makes at run time; vLLM for CPUs is linked with libnuma, which no wheel brings; wget
# is what KubeRay's probes call.
RUN apt-get update && \
    apt-get install --yes --no-install-recommends gcc g++ libc6-dev libnuma1 procps wget && \
    rm -rf /var/lib/apt/lists/*

ARG HARDWARE=gpu
# For CPUs vLLM asks for this build, which PyPI does not have; the index is asked where pip finds it nowhere else.
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --from=wheel /dist /dist
# Into /usr/local: KubeRay starts Ray from a login shell, which forgets every PATH that an image sets.
RUN wheel="$(ls /dist/lookahead_serve-*.whl)" && \
    if [ "$HARDWARE" = cpu ]; then pip install --no-cache-dir "$TORCH" || { \
        echo "pip does not find $TORCH: trying $TORCH_INDEX as well."; \
        pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" "$TORCH"; }; fi && \
    pip install --no-cache-dir "lookahead-serve[$HARDWARE] @ file://$wheel" && \
    if [ "$HARDWARE" = cpu ]; then pip uninstall --yes torchvision torchaudio torchcodec; fi
# FlashInfer's kernels, compiled already, since there is no CUDA toolkit. Nor is there a GPU while an image is built: then
# vLLM's command runs only if it is told to run for CPUs.
RUN if [ "$HARDWARE" = gpu ]; then PIP_NO_CACHE_DIR=1 VLLM_TARGET_DEVICE=cpu vllm download-kernels; fi

# Every Ray process demands the token; Serve runs as docs/operations.md says; weights lie in a volume.
ENV RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_worker_niceness=0 \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    RAY_SERVE_ENABLE_DIRECT_INGRESS=0 \
    RAY_SERVE_ENABLE_HA_PROXY=0 \
    RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S=2 \
    RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS=1 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.server.proxy:middlewares \
    RAY_SERVE_LOG_TO_STDERR=1 \
    HF_HOME=/models/huggingface \
    LOOKAHEAD_CACHE=/models/lookahead

RUN useradd --create-home --uid 1000 lookahead && install --directory --owner=lookahead /models
USER 1000
WORKDIR /home/lookahead
EXPOSE 8000
CMD ["lookahead", "--help"]
