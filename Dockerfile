# The command mask-rcnn-ext in a container, for a CPU:
#
#     docker build -t mask-rcnn-ext .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" mask-rcnn-ext \
#         predict model_final.pth photos --output predictions
#
# For NVIDIA GPUs, name a CUDA version that PyTorch is built for, and add `--gpus all` to `docker run`:
#
#     docker build -t mask-rcnn-ext:cuda --build-arg TORCH=cu128 .

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY mask_rcnn_ext mask_rcnn_ext
COPY configs configs
COPY tools tools
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
# cpu, or a CUDA version: the last part of the address of a build of PyTorch.
ARG TORCH=cpu
COPY constraints.txt /wheels/
# pip prefers 2.15.0+cpu to 2.15.0, so torch and torchvision are of one build.
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt \
    --extra-index-url "https://download.pytorch.org/whl/${TORCH}" torch torchvision
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt \
    "$(ls /wheels/*.whl)[fast,lite0,opencv]" \
    && mask-rcnn-ext setup --constraint /wheels/constraints.txt
# Any user can run it: what libraries keep at home goes to a folder that everyone may write to.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["mask-rcnn-ext"]
CMD ["--help"]
