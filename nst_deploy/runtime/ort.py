"""ONNX Runtime behind the Backend interface."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nst_deploy.contract import INPUT_NAME, OUTPUT_NAME, ContractError, ModelContract
from nst_deploy.errors import (
    BackendFailedError,
    EngineNotFoundError,
    EngineUnreadableError,
    NotAnEngineError,
)
from nst_deploy.runtime.vendor import loading

SHRINK_ARENA = (
    "memory.enable_memory_arena_shrinkage"  # a run's option: give back afterwards what the arena does not use
)
ERRORS_ONLY = 3  # ONNX Runtime's log severity: what it warns of is for its own developers


class OrtBackend:
    """ONNX Runtime on the CPU. Sessions are thread-safe, so one serves every thread.

    Raises:
        BackendMissingError, BackendBrokenError, EngineNotFoundError, EngineUnreadableError, NotAnEngineError.
    """

    name = "onnxruntime-cpu"

    def __init__(self, engine: Path, *, threads: int | None = None) -> None:
        self._ort = import_onnxruntime()
        if not engine.is_file():
            raise EngineNotFoundError(engine)
        options = self._ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        # Patterns are kept per size and each holds memory of its own: +60 % after two sizes, and no time gained.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = self._ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = "the file is empty" if engine.stat().st_size == 0 else "it is damaged or not an ONNX model"
            raise EngineUnreadableError(engine, reason) from error
        self.contract = _read_contract(engine, session)
        self._session: Any = session
        self._last_shape: tuple[int, ...] = ()
        self._shrinking = self._ort.RunOptions()
        self._shrinking.log_severity_level = ERRORS_ONLY
        self._shrinking.add_run_config_entry(SHRINK_ARENA, "cpu:0")

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Blocks cut for one size seldom fit the next, so pictures of many sizes would pile up memory; those of one
        # size keep it, which saves them 6 % of the time.
        options = self._shrinking if images.shape != self._last_shape else None
        self._last_shape = images.shape
        try:
            styled: NDArray[np.uint8] = self._session.run([OUTPUT_NAME], {INPUT_NAME: images}, options)[0]
        except Exception as error:
            raise BackendFailedError(self.name, str(error).strip().split("\n")[0]) from error
        return styled

    def close(self) -> None:
        self._session = None


def import_onnxruntime() -> Any:
    """
    Raises:
        BackendMissingError, BackendBrokenError.
    """
    with loading("onnxruntime", "cpu"):
        import onnxruntime  # noqa: PLC0415  (an optional extra)
    return onnxruntime


def _read_contract(engine: Path, session: Any) -> ModelContract:
    try:
        contract = ModelContract.from_metadata(session.get_modelmeta().custom_metadata_map)
    except ContractError as error:
        raise NotAnEngineError(engine, str(error)) from error
    check_tensors(engine, session)
    return contract


def check_tensors(engine: Path, session: Any) -> None:
    """
    Raises:
        NotAnEngineError: the session's inputs and outputs are not those of the contract.
    """
    for role, nodes, name in (
        ("input", session.get_inputs(), INPUT_NAME),
        ("output", session.get_outputs(), OUTPUT_NAME),
    ):
        given = [(node.name, node.type) for node in nodes]
        if given != [(name, "tensor(uint8)")]:
            raise NotAnEngineError(engine, f"its {role} is {given}, expected one uint8 tensor {name!r}")
