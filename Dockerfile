# The page, on a CPU: docker build -t jaxsd . && docker run -p 7860:7860 jaxsd
# On a GPU: docker build --build-arg EXTRAS=app,cuda13 -t jaxsd . && docker run --gpus all -p 7860:7860 jaxsd
FROM python:3.12-slim

ARG EXTRAS=app
COPY . /source
RUN pip install --no-cache-dir "/source[${EXTRAS}]" && rm -r /source

RUN useradd --create-home --uid 1000 person
USER 1000
WORKDIR /home/person

EXPOSE 7860
HEALTHCHECK --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/', timeout=5)"]
ENTRYPOINT ["jaxsd", "serve", "--host", "0.0.0.0"]
