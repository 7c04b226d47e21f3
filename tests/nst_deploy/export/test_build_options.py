from typing import Any

import pytest

from nst_common.errors import UsageError
from nst_deploy.export.build_options import BuildOptions
from nst_deploy.plan_sidecar import DEFAULT_PROFILE, Profile


def test_the_defaults_are_the_documented_profile() -> None:
    assert BuildOptions().profile() == DEFAULT_PROFILE == Profile((1, 8, 8), (1, 512, 512), (1, 2160, 3840))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_size": (256, 1024)}, Profile((1, 8, 8), (1, 256, 512), (1, 256, 1024))),
        ({"min_size": (720, 1280)}, Profile((1, 720, 1280), (1, 720, 1280), (1, 2160, 3840))),
        ({"opt_size": (1080, 1920), "max_batch": 4}, Profile((1, 8, 8), (4, 1080, 1920), (4, 2160, 3840))),
    ],
    ids=["a small maximum", "a large minimum", "a batch"],
)
def test_what_is_not_given_follows_what_is(options: dict[str, Any], expected: Profile) -> None:
    assert BuildOptions(**options).profile() == expected


def test_a_static_graph_leaves_only_the_batch_open() -> None:
    assert BuildOptions(max_batch=3).profile((64, 96)) == Profile((1, 64, 96), (3, 64, 96), (3, 64, 96))
    for name in ("min_size", "opt_size", "max_size"):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} was given as well"):
            BuildOptions(
                **{name: (16, 16), "max_size": (3000, 3000)} if name != "max_size" else {name: (600, 600)}
            ).profile((64, 96))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"min_size": (7, 8)}, r"--min-size is 7x8, expected HxW of 8\.\.8192 px"),
        ({"max_size": (2160, 8193)}, "--max-size is 2160x8193"),
        ({"opt_size": (0, 0)}, "--opt-size is 0x0"),
        ({"min_size": (64, 65), "max_size": (64, 64)}, "--min-size is 64x65, --max-size 64x64"),
        ({"opt_size": (8, 3841)}, "--opt-size is 8x3841, --max-size 2160x3840"),
        ({"min_size": (100, 100), "opt_size": (99, 100)}, "--min-size is 100x100, --opt-size 99x100"),
        ({"max_batch": 0}, r"--max-batch is 0, expected 1\.\.1024"),
        ({"max_batch": 2000}, "--max-batch is 2000"),
        ({"workspace_bytes": 0}, "--workspace is 0 bytes"),
        ({"optimization_level": 6}, r"--opt-level is 6, expected 0\.\.5"),
        ({"optimization_level": -1}, "--opt-level is -1"),
        ({"compute_capabilities": ("9.0",)}, r"--compute-capability 9\.0 is unknown .* Known are 7\.5, 8\.0"),
        ({"compute_capabilities": ("8.9", "current")}, "mixes current with others"),
    ],
)
def test_values_that_no_plan_can_have(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        BuildOptions(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flavor", "options"),
    [
        ("tensorrt", {"compute_capabilities": ("8.9",)}),
        ("rtx", {"portable": True}),
        ("rtx", {"optimization_level": 0}),
    ],
)
def test_what_only_the_other_flavor_has(flavor: Any, options: dict[str, Any]) -> None:
    other = "rtx" if flavor == "tensorrt" else "tensorrt"
    build = BuildOptions(**options)
    build.check_flavor(other)
    with pytest.raises(UsageError, match=f"choose --trt-flavor {other}"):
        build.check_flavor(flavor)
