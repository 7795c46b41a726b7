# Plain pip gives torch's default build (with CUDA on Linux). For a smaller CPU image name PyTorch's CPU wheel index:
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
COPY --chown=user requirements.txt .
RUN --mount=type=cache,target=/home/user/.cache/pip,uid=1000 \
    pip install --user ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "torch>=2.8,<=2.13.0" && \
    pip install --user -r requirements.txt

COPY --chown=user . .
EXPOSE 7860
CMD ["python", "app.py"]
