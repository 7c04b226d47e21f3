"""config.pbtxt, as Triton's own protobuf reads it, against the engines themselves."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from nst_common.errors import UsageError
from nst_deploy.contract import ModelContract, Parity
from nst_deploy.plan_sidecar import PlanSidecar, Profile
from nst_deploy.styles import bundled_styles
from nst_deploy.triton import TritonOptions, WarmupFrame, onnx_config, plan_config
from tests.engines import CONTRACT

pytest.importorskip("tritonclient.grpc")
from tests.triton.repository import FRAME, parse

KIND_AUTO, KIND_GPU, KIND_CPU = 0, 1, 2  # of model_config.proto
TYPE_UINT8 = 2
SIDECAR = PlanSidecar(
    contract=dataclasses.replace(CONTRACT, precision="fp16"),
    plan_sha256="0" * 64,
    flavor="tensorrt",
    library_version="10.13.3.9",
    gpu_name="NVIDIA L4",
    compute_capabilities=("8.9",),
    profile=Profile((1, 8, 8), (8, 512, 512), (8, 2160, 3840)),
    portable=False,
    weights_stripped=False,
    build_seconds=2.5,
)


def config_of(contract: ModelContract = CONTRACT, **options: object) -> object:
    return parse(onnx_config("la_muse", contract, TritonOptions(**options), FRAME))


@pytest.mark.parametrize("engine", bundled_styles().values(), ids=bundled_styles())
def test_agrees_with_the_engine_itself(engine: Path) -> None:
    model = onnx.load_model(str(engine))
    contract = ModelContract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    config = parse(onnx_config(engine.stem, contract, TritonOptions(), FRAME))
    assert (config.name, config.backend) == (engine.stem, "onnxruntime")
    session = onnxruntime.InferenceSession(str(engine), providers=["CPUExecutionProvider"])
    for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [entry.name for entry in ours] == [entry.name for entry in theirs]
        batch, *rest = theirs[0].shape
        assert isinstance(batch, str)  # a symbol: any number, as max_batch_size needs it
        assert list(ours[0].dims) == [size if isinstance(size, int) else -1 for size in rest]
        assert theirs[0].type == "tensor(uint8)"
        assert ours[0].data_type == TYPE_UINT8
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert ModelContract.from_metadata(parameters) == contract


def test_an_engine_of_one_size_has_its_dims_and_keeps_what_pays_for_one_size() -> None:
    config = config_of(dataclasses.replace(CONTRACT, static_size=(720, 1280)))
    assert list(config.input[0].dims) == list(config.output[0].dims) == [720, 1280, 3]
    assert not {"enable_mem_pattern", "cudnn_conv_algo_search"} & set(config.parameters)


@pytest.mark.parametrize(("kind", "value"), [("auto", KIND_AUTO), ("gpu", KIND_GPU), ("cpu", KIND_CPU)])
def test_one_group_of_one_kind(kind: str, value: int) -> None:
    config = config_of(kind=kind, instances=3)
    assert [(group.kind, group.count) for group in config.instance_group] == [(value, 3)]
    assert not config.instance_group[0].gpus
    gpu = config.optimization.execution_accelerators.gpu_execution_accelerator
    exact = [(entry.name, dict(entry.parameters)) for entry in gpu]
    assert exact == ([] if kind == "cpu" else [("cuda", {"use_tf32": "0"})])


def test_fp16_leaves_tf32_alone() -> None:
    assert not config_of(dataclasses.replace(CONTRACT, precision="fp16")).HasField("optimization")


@pytest.mark.parametrize(
    ("max_batch", "preferred"), [(1, None), (2, [2]), (4, [2, 4]), (6, [2, 4, 6]), (16, [2, 4, 8, 16])]
)
def test_batches(max_batch: int, preferred: list[int] | None) -> None:
    config = config_of(max_batch=max_batch, queue_delay=700)
    assert config.max_batch_size == max_batch
    assert config.HasField("dynamic_batching") == (preferred is not None)
    if preferred is not None:
        assert list(config.dynamic_batching.preferred_batch_size) == preferred
        assert config.dynamic_batching.max_queue_delay_microseconds == 700
    # Every batch that starts at once has been run before the server says that it is ready.
    assert [sample.batch_size for sample in config.model_warmup] == [1, *(preferred or [])]
    for sample in config.model_warmup:
        frame = sample.inputs["image"]
        assert (list(frame.dims), frame.data_type) == ([FRAME.height, FRAME.width, 3], TYPE_UINT8)
        assert frame.input_data_file == FRAME.file


def test_threads() -> None:
    assert config_of(threads=3).parameters["intra_op_thread_count"].string_value == "3"
    assert "intra_op_thread_count" not in config_of().parameters


def test_a_size_that_may_change_must_not_pile_up_memory(tmp_path: Path) -> None:
    """ONNX Runtime takes the parameters as they stand in the config."""
    parameters = {key: value.string_value for key, value in config_of().parameters.items()}
    shrinkage = "memory.enable_memory_arena_shrinkage"
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(shrinkage, parameters[shrinkage])
    engine = bundled_styles()["la_muse_half"]
    session = onnxruntime.InferenceSession(str(engine), providers=["CPUExecutionProvider"])
    image = np.full((1, 9, 9, 3), 77, np.uint8)
    assert session.run(None, {"image": image}, options)[0].shape == image.shape


@pytest.mark.parametrize("style", ["la muse", 'a "quoted" one', "back\\slash", "двадцать", "tab\tand\nline\x01"])
def test_any_name_comes_back(style: str) -> None:
    parity = Parity(1, 0.5, None, 'a "back end"')
    contract = dataclasses.replace(CONTRACT, style=style, parity=parity, norm_scales=(0.5, 2.0))
    config = parse(onnx_config(style, contract, TritonOptions(), FRAME))
    assert config.name == style
    assert ModelContract.from_metadata({k: v.string_value for k, v in config.parameters.items()}) == contract


def test_a_plan_runs_on_gpus_within_its_profile() -> None:
    frame = WarmupFrame("frame.rgb", 512, 512)
    config = parse(plan_config("la_muse_trt", SIDECAR, TritonOptions(max_batch=16), frame))
    assert (config.platform, config.backend) == ("tensorrt_plan", "")
    assert config.max_batch_size == 8
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4, 8]
    assert [group.kind for group in config.instance_group] == [KIND_GPU]
    assert list(config.input[0].dims) == [-1, -1, 3]
    assert not config.HasField("optimization")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert ModelContract.from_metadata(parameters) == SIDECAR.contract
    assert parameters["nst.compute_capabilities"] == "8.9"


def test_a_plan_for_one_picture_of_one_size() -> None:
    shape = (1, 720, 1280)
    sidecar = dataclasses.replace(SIDECAR, profile=Profile(shape, shape, shape))
    config = parse(plan_config("la_muse_trt", sidecar, TritonOptions(), WarmupFrame("frame.rgb", 720, 1280)))
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert list(config.output[0].dims) == [720, 1280, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "tpu"},
        {"instances": 0},
        {"threads": 0},
        {"max_batch": 0},
        {"max_batch": 1000},
        {"queue_delay": -1},
        {"warmup_size": (4, 64)},
    ],
)
def test_refuses_what_no_server_should_get(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TritonOptions(**options)
