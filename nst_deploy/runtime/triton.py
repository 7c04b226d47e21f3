"""An engine behind a Triton Inference Server, by gRPC or HTTP."""

import importlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nst_common.errors import UsageError, UserError
from nst_deploy.contract import INPUT_NAME, OUTPUT_NAME, ContractError, ModelContract
from nst_deploy.errors import (
    BackendMissingError,
    ModelNotReadyError,
    NotAServedEngineError,
    ServerAddressError,
    ServerFailedError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from nst_deploy.runtime.vendor import loading

DEFAULT_TIMEOUT = 60.0  # s, for every answer
ADDRESS = re.compile(r"(?P<protocol>grpc|http)://(?P<server>[^/\s]+)/(?P<model>[^/\s]+)/?")
DATA_TYPE = "UINT8"
UNREACHABLE, NO_SUCH_MODEL, TOO_LATE = (
    f"StatusCode.{code}" for code in ("UNAVAILABLE", "NOT_FOUND", "DEADLINE_EXCEEDED")
)


class Address(NamedTuple):
    """``grpc://HOST:PORT/MODEL`` or ``http://HOST:PORT/MODEL``."""

    protocol: str
    server: str
    model: str

    def __str__(self) -> str:
        return f"{self.protocol}://{self.server}/{self.model}"


class TritonBackend:
    """A served engine behind the Backend interface: what a local one would compute, computed elsewhere.

    Threads may share it; each gets a connection of its own, and the server joins what they send at the same time.

    Args:
        address: ``grpc://HOST:8001/MODEL`` or ``http://HOST:8000/MODEL``.
        timeout: s, for every answer.

    Attributes:
        max_batch: pictures in one request; more are sent one request after the other.

    Raises:
        BackendMissingError, BackendBrokenError: tritonclient.
        ServerAddressError, UsageError: what was given.
        ServerUnreachableError, ServerTimeoutError, ModelNotReadyError, ServerFailedError: the server.
        NotAServedEngineError: the model is not one of nst-export's.
    """

    def __init__(self, address: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        if not timeout > 0:
            raise UsageError(f"The timeout is {timeout:g} s, expected more than 0", "Choose another")
        self._address = _parse(address)
        self._timeout = timeout
        self._module = _import_client(self._address.protocol)
        self._threads = threading.local()
        self.name = f"triton-{self._address.protocol}"
        with self._explained():
            config = self._ask_for_config()
        self.contract, self.max_batch = _read_config(str(self._address), config)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See Backend; the batch is sent in as few requests as the server allows.

        Raises:
            ServerUnreachableError, ServerTimeoutError, ModelNotReadyError, ServerFailedError.
        """
        parts = [self._request(images[i : i + self.max_batch]) for i in range(0, len(images), self.max_batch)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Closes this thread's connection; those of others end with their threads."""
        client = self._threads.__dict__.pop("client", None)
        if client is not None:
            client.close()

    def _request(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One request: uint8 ``[N, H, W, 3]``, N at most ``max_batch``."""
        module, name = self._module, self._address.model
        tensor = module.InferInput(INPUT_NAME, list(images.shape), DATA_TYPE)
        tensor.set_data_from_numpy(np.ascontiguousarray(images))  # as raw bytes, also by HTTP
        wanted = [module.InferRequestedOutput(OUTPUT_NAME)]
        with self._explained():
            styled = self._client().infer(name, [tensor], outputs=wanted, **self._limit()).as_numpy(OUTPUT_NAME)
        if styled is None:
            raise ServerFailedError(str(self._address), f"its answer holds no tensor {OUTPUT_NAME!r}")
        if styled.dtype != np.uint8 or styled.shape != images.shape:
            given, expected = f"{styled.dtype} {list(styled.shape)}", f"uint8 {list(images.shape)}"
            raise ServerFailedError(str(self._address), f"it answered with {given}, expected {expected}")
        return np.array(styled)  # the answer's bytes are not ours to write to

    def _ask_for_config(self) -> dict[str, Any]:
        client, name = self._client(), self._address.model
        if not client.is_model_ready(name, **self._limit()):
            index = client.get_model_repository_index(**self._limit())
            raise ModelNotReadyError(str(self._address), _why_not_ready(name, index))
        if self._address.protocol == "http":
            config: dict[str, Any] = client.get_model_config(name)
            return config
        answer: dict[str, Any] = client.get_model_config(name, as_json=True, **self._limit())
        return answer["config"]  # type: ignore[no-any-return]

    def _client(self) -> Any:
        """This thread's own: tritonclient's may not be shared."""
        client = getattr(self._threads, "client", None)
        if client is None:
            timeouts = {"connection_timeout": self._timeout, "network_timeout": self._timeout}
            options = timeouts if self._address.protocol == "http" else {}
            client = self._threads.client = self._module.InferenceServerClient(self._address.server, **options)
        return client

    def _limit(self) -> dict[str, float]:
        # By HTTP the connection has it.
        return {} if self._address.protocol == "http" else {"client_timeout": self._timeout}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns whatever a client raises in the block into one of our errors."""
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415

        address = str(self._address)
        try:
            yield
        except UserError:
            raise
        except InferenceServerException as error:
            raise self._explain(str(error.status()), error.message() or "it gave no reason") from error
        except TimeoutError as error:  # a socket's
            raise ServerTimeoutError(address, self._timeout) from error
        except OSError as error:
            raise ServerUnreachableError(address, error.strerror or str(error)) from error
        except Exception as error:  # what is no HTTP, no JSON or no tensor makes the client raise anything
            raise ServerFailedError(address, f"its answer cannot be read: {error}") from error

    def _explain(self, status: str, message: str) -> Exception:
        address, reason = str(self._address), message.partition("\n")[0].rstrip(".")
        if status == TOO_LATE:
            return ServerTimeoutError(address, self._timeout)
        if status == NO_SUCH_MODEL:
            return ModelNotReadyError(address, reason)
        if status == UNREACHABLE:
            return ServerUnreachableError(address, reason)
        return ServerFailedError(address, reason)


def _parse(address: str) -> Address:
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ServerAddressError(address)
    return Address(match["protocol"], match["server"], match["model"])


def _import_client(protocol: str) -> Any:
    with loading("tritonclient", "triton"):
        try:
            return importlib.import_module(f"tritonclient.{protocol}")
        except RuntimeError as error:  # so it says that it was installed without what this protocol needs
            raise BackendMissingError(f"tritonclient[{protocol}]", "triton") from error


def _why_not_ready(model: str, index: Any) -> str:
    """From the index of the server's repository: HTTP answers with a list, gRPC with a message."""
    entries = index if isinstance(index, list) else index.models
    reasons = {}
    for entry in entries:
        name, reason = (entry["name"], entry.get("reason")) if isinstance(entry, dict) else (entry.name, entry.reason)
        reasons[name] = reason or ""
    if reason := reasons.get(model):
        return reason.rstrip(".")
    return f"the server has {', '.join(sorted(reasons)) or 'no models'}"


def _read_config(address: str, config: dict[str, Any]) -> tuple[ModelContract, int]:
    """The contract in a model's config, and its largest batch."""
    try:
        contract = ModelContract.from_metadata(
            {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
        )
    except ContractError as error:
        raise NotAServedEngineError(address, str(error)) from error
    max_batch = int(config.get("max_batch_size", 0))
    if max_batch < 1:
        raise NotAServedEngineError(address, f"its max_batch_size is {max_batch}, expected 1 or more")
    return contract, max_batch
