"""Stands in for Triton's ONNX Runtime back end where only the server itself is to be had.

Triton runs it as a "Python-based backend": it takes the place of ``libtriton_onnxruntime.so`` for every model whose
config says ``backend: "onnxruntime"``, and joins requests as that does. The model, its engine and its config are used
as they are.
"""

# ruff: noqa: E402
import json
import os
import sys
from pathlib import Path

sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)  # which the back end's interpreter does not heed

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config: object) -> object:
        return config

    def initialize(self, arguments: dict[str, str]) -> None:
        config = json.loads(arguments["model_config"])
        assert arguments["model_instance_kind"] in ("CPU", "GPU")  # the server has settled KIND_AUTO
        options = onnxruntime.SessionOptions()
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "0"))
        options.enable_mem_pattern = parameters.get("enable_mem_pattern", "1") == "1"
        self.run_options = onnxruntime.RunOptions()
        shrinkage = "memory.enable_memory_arena_shrinkage"
        if shrinkage in parameters:
            self.run_options.add_run_config_entry(shrinkage, parameters[shrinkage])
        folder = Path(arguments["model_repository"]) / arguments["model_version"]
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]

    def execute(self, requests: list[object]) -> list[object]:
        # By DLPack, because the back end was compiled for NumPy 1 and misreads arrays of NumPy 2.
        given = [np.from_dlpack(triton.get_input_tensor_by_name(request, self.input)) for request in requests]
        styled = self.session.run([self.output], {self.input: np.concatenate(given)}, self.run_options)[0]
        parts = np.split(styled, np.cumsum([len(frames) for frames in given])[:-1])
        tensors = [triton.Tensor.from_dlpack(self.output, part) for part in parts]
        return [triton.InferenceResponse([tensor]) for tensor in tensors]
