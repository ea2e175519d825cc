# The service on a CPU with an exported ONNX graph, without MindSpore; see docs/service.md.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONPATH=/app/src ORT_DISABLE_TELEMETRY=1
WORKDIR /app

COPY deploy/requirements-onnx.txt deploy/requirements-serve.txt deploy/
RUN pip install --no-cache-dir -r deploy/requirements-serve.txt \
    && useradd --uid 10001 --no-create-home coupalign

COPY default_config.yaml serve.py ./
COPY assets/*vocab.txt assets/
COPY deploy/*.py deploy/
COPY src src

USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["python", "serve.py", "--engine", "onnx", "--model", "/model/coupalign.onnx", "--host", "0.0.0.0"]
