# The page and its worker in one container; as a Docker Space or anywhere else.
FROM python:3.11-slim

# tini is the first process: it takes care of those whose parents have ended.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends tini && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user
USER user
ENV HOME=/home/user \
    PATH=/home/user/.local/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/home/user/.cache/huggingface \
    MERGE_HOME=/home/user/merges \
    MERGE_HOST=0.0.0.0 \
    MERGE_PORT=7860
WORKDIR /home/user/app

COPY --chown=user requirements.txt .
RUN pip install --no-cache-dir --user -r requirements.txt
COPY --chown=user app.py cli.py settings.py README.md ./
COPY --chown=user merging merging
COPY --chown=user hub hub
COPY --chown=user jobs jobs
COPY --chown=user ui ui

EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/ready', timeout=4)"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "app.py"]
