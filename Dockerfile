# Exact versions, checked by their hashes; torch is the default build (with CUDA on Linux). For a smaller CPU image name
# PyTorch's CPU wheel index; torch and what only torch needs then come from there, unhashed:
#   docker build --build-arg TORCH_INDEX_URL=... -t latent-relay .
FROM python:3.12-slim

# Spaces run containers as uid 1000, and a non-root user is right anywhere.
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LATENT_RELAY_HOST=0.0.0.0 \
    LATENT_RELAY_PORT=7860

ARG TORCH_INDEX_URL=
# Requirements first: the layer, and pip's cache, outlive changes of the code.
COPY --chown=user requirements.lock requirements-without-torch.lock ./
RUN --mount=type=cache,target=/home/user/.cache/pip,uid=1000 \
    if [ -n "$TORCH_INDEX_URL" ]; then \
        pip install --user --index-url "$TORCH_INDEX_URL" "torch>=2.8,<=2.13.0" && \
        pip install --user --no-deps --require-hashes -r requirements-without-torch.lock; \
    else \
        pip install --user --require-hashes -r requirements.lock; \
    fi

COPY --chown=user . .
EXPOSE 7860
CMD ["python", "app.py"]
