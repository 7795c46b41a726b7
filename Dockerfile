# A CPU image of Latent Relay; for a GPU start from an image with CUDA and drop the two lines about the CPU wheel.
FROM python:3.12-slim

# Spaces run containers as uid 1000, and a non-root user is right anywhere.
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
ENV PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LATENT_RELAY_HOST=0.0.0.0 \
    LATENT_RELAY_PORT=7860

# Requirements first: the layer, and pip's cache, outlive changes of the code.
COPY --chown=user requirements.txt .
RUN --mount=type=cache,target=/home/user/.cache/pip,uid=1000 \
    pip install --user torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu && \
    pip install --user -r requirements.txt

COPY --chown=user . .
EXPOSE 7860
CMD ["python", "app.py"]
