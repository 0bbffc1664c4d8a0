# Backend and worker in one image: `captioner serve` or `captioner worker`.
FROM python:3.11-slim

# The container needs no GPU. With --build-arg TORCH_INDEX=... the image is 4 GB smaller: give the address of PyTorch's
# CPU packages, which PyTorch's install page names. Without it torch's ordinary build is installed.
ARG TORCH_INDEX=""

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

COPY requirements.txt requirements-s3.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX" $(grep -E '^torch(vision)?==' requirements.txt) && \
        grep -vE '^(nvidia-|cuda-|triton|torch)' requirements.txt > needed.txt; \
    else cp requirements.txt needed.txt; fi \
    && pip install --no-deps -r needed.txt -r requirements-s3.txt && rm needed.txt

COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY worker worker
COPY backend backend
RUN pip install --no-deps --no-build-isolation . && rm -rf build *.egg-info \
    && useradd --uid 10001 --create-home captioner && install -d -o captioner -g captioner /data /data/store

USER captioner
WORKDIR /home/captioner
VOLUME /data
EXPOSE 9090
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9090/ready', timeout=4)"]
CMD ["captioner", "serve"]
