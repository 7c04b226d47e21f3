"""A server that speaks Triton's two protocols, with the real engines of a repository behind it, and faults on demand.

It knows what a client of ours asks: readiness, config, the repository's index, inference with raw tensors. gRPC is by
tritonclient's generated service; HTTP is the KServe protocol, version 2, with the binary tensor extension.
"""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from nst_deploy.runtime.ort import OrtBackend
from tests.triton.repository import parse

HEADER_LENGTH = "Inference-Header-Content-Length"
SLOW = 2.0  # s


class Refusal(Exception):  # noqa: N818
    """What the server says no to."""


@dataclass
class Stub:
    """Attributes:
    fault: what goes wrong from now on; empty: nothing.
    batches: N of every request that was answered.
    """

    repository: Path
    fault: str = ""
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        folders = sorted(path.parent for path in self.repository.glob("*/config.pbtxt"))
        self.configs = {folder.name: parse((folder / "config.pbtxt").read_text(encoding="utf-8")) for folder in folders}
        self.engines = {folder.name: OrtBackend(folder / "1" / "model.onnx") for folder in folders}

    def ready(self, name: str) -> bool:
        return name in self.engines and self.fault != "not ready"

    def infer(self, name: str, image: np.ndarray) -> tuple[str, np.ndarray]:
        """The output's name and the output."""
        if name not in self.engines:
            raise Refusal(f"Request for unknown model: '{name}' is not found")
        if self.fault == "refuses":
            raise Refusal("out of memory\nand a second line")
        if self.fault == "slow":
            time.sleep(SLOW)
        if len(image) > self.configs[name].max_batch_size:
            raise Refusal(f"batch-size must be <= {self.configs[name].max_batch_size}")
        self.batches.append(len(image))
        styled = self.engines[name].run(image)
        faults = {
            "wrong shape": ("styled", styled[:, 1:]),
            "wrong type": ("styled", styled.astype(np.float32)),
            "wrong name": ("other", styled),
        }
        return faults.get(self.fault, ("styled", styled))


class GrpcService(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, stub: Stub) -> None:
        self.stub = stub

    def ModelReady(self, request: Any, _: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self.stub.ready(request.name))

    def ModelConfig(self, request: Any, _: Any) -> Any:  # noqa: N802
        return service_pb2.ModelConfigResponse(config=self.stub.configs[request.name])

    def RepositoryIndex(self, *_: Any) -> Any:  # noqa: N802
        return service_pb2.RepositoryIndexResponse(models=[{"name": name} for name in self.stub.engines])

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        (tensor,) = request.inputs
        assert (tensor.name, tensor.datatype) == ("image", "UINT8")
        image = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(tensor.shape)
        try:
            name, styled = self.stub.infer(request.model_name, image)
        except Refusal as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        output = {"name": name, "datatype": DATA_TYPES[styled.dtype.name], "shape": styled.shape}
        raw = styled.tobytes()
        if self.stub.fault == "cut short":
            raw = raw[:-5]
        return service_pb2.ModelInferResponse(
            model_name=request.model_name, outputs=[output], raw_output_contents=[raw]
        )


DATA_TYPES = {"uint8": "UINT8", "float32": "FP32"}


class HttpHandler(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, _, _, name, what = self.path.split("/")  # /v2/models/NAME/ready
        if what == "ready":
            self._answer(200 if self.stub.ready(name) else 400)
        else:
            config = json_format.MessageToDict(self.stub.configs[name], preserving_proto_field_name=True)
            self._answer(200, json.dumps(config).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v2/repository/index":
            self._answer(200, json.dumps([{"name": name} for name in self.stub.engines]).encode())
            return
        header_length = int(self.headers[HEADER_LENGTH])
        request = json.loads(body[:header_length])
        (tensor,) = request["inputs"]
        assert (tensor["name"], tensor["datatype"]) == ("image", "UINT8")
        assert tensor["parameters"]["binary_data_size"] == len(body) - header_length
        image = np.frombuffer(body[header_length:], np.uint8).reshape(tensor["shape"])
        try:
            name, styled = self.stub.infer(self.path.split("/")[3], image)
        except Refusal as error:
            self._answer(400, json.dumps({"error": str(error)}).encode())
            return
        raw = styled.tobytes()
        output = {"name": name, "datatype": DATA_TYPES[styled.dtype.name], "shape": styled.shape}
        output["parameters"] = {"binary_data_size": len(raw)}
        header = json.dumps({"model_name": "m", "outputs": [output]}).encode()
        if self.stub.fault == "cut short":
            raw = raw[:-5]
        self._answer(200, header + raw, {HEADER_LENGTH: str(len(header))})

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serving(stub: Stub) -> Iterator[dict[str, str]]:
    """Both servers on this machine's loopback; protocol -> address without the model's name."""
    grpc_server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(GrpcService(stub), grpc_server)
    grpc_port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    http_server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HttpHandler,), {"stub": stub}))
    http_server.daemon_threads = True
    threading.Thread(target=http_server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield {"grpc": f"grpc://127.0.0.1:{grpc_port}", "http": f"http://127.0.0.1:{http_server.server_port}"}
    finally:
        http_server.shutdown()
        http_server.server_close()
        grpc_server.stop(None).wait()
