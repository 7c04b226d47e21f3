"""Model repositories of tiny engines, and a config.pbtxt as Triton's own protobuf reads it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from nst_deploy.triton import TritonOptions, WarmupFrame, onnx_config
from tests.engines import CONTRACT, write_engine

FRAME = WarmupFrame("noise.rgb", 24, 16)


def parse(text: str) -> Any:
    """A config.pbtxt as a ModelConfig; a field that there is not, or a value of the wrong type, is an error."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def write_model(
    repository: Path, name: str = "negative", options: TritonOptions | None = None, **contract: object
) -> Path:
    """A model whose engine inverts; the keywords change its contract. Its warm-up frame is noise, 24x16 px (HxW)."""
    model = repository / name
    (model / "1").mkdir(parents=True)
    (model / "warmup").mkdir()
    write_engine(model / "1" / "model.onnx", **contract)
    noise = np.random.default_rng(0).integers(0, 256, (FRAME.height, FRAME.width, 3), dtype=np.uint8)
    (model / "warmup" / FRAME.file).write_bytes(noise.tobytes())
    config = onnx_config(name, dataclasses.replace(CONTRACT, **contract), options or TritonOptions(), FRAME)
    (model / "config.pbtxt").write_text(config, encoding="utf-8")
    return model
