FROM python:3.12-slim
RUN useradd --create-home --uid 1000 user && mkdir -p /data && chown user /data
USER user
ENV HOME=/home/user PATH=/home/user/.local/bin:$PATH \
    GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860 TRIPOD_WORKSPACE=/data/tripod
WORKDIR /home/user/tripod
COPY --chown=user requirements.txt .
RUN pip install --no-cache-dir --user -r requirements.txt
COPY --chown=user . .
EXPOSE 7860
CMD ["python", "app.py"]
