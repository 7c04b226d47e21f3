"""From an ONNX engine to a plan that is measured where a GPU is, and lies beside its sidecar."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nst_common.errors import UserError
from nst_deploy.contract import ModelContract
from nst_deploy.errors import (
    BackendMissingError,
    DriverTooOldError,
    GpuUnavailableError,
    PlanElsewhereError,
    RtxUnsupportedError,
)
from nst_deploy.export.build_options import BuildOptions
from nst_deploy.export.engine import BuiltPlan, build_plan
from nst_deploy.export.engine_builder import EngineBuilder
from nst_deploy.export.parity import ParityReport
from nst_deploy.plan_sidecar import PlanSidecar, Profile, write_plan
from nst_deploy.runtime.backend import Backend, open_backend

# What only says that this machine is not the one to run it.
NOT_HERE: tuple[type[UserError], ...] = (
    BackendMissingError,
    DriverTooOldError,
    GpuUnavailableError,
    PlanElsewhereError,
    RtxUnsupportedError,
)


@dataclass(frozen=True)
class PlanExport:
    """Plans of one library with the same options, written to one folder."""

    builder: EngineBuilder
    options: BuildOptions
    folder: Path

    def build(self, model: bytes, contract: ModelContract) -> BuiltPlan:
        """See build_plan."""
        return build_plan(model, contract, self.builder, self.options, self.folder)

    def measure(
        self, plan: BuiltPlan, model: bytes, prove: Callable[[Backend, Profile], ParityReport]
    ) -> tuple[ParityReport | None, str | None]:
        """The comparison with PyTorch, or why the plan cannot run on this machine.

        Args:
            model: what it was built from, which holds the weights of a stripped plan.

        Raises:
            ParityError: it differs by more than its precision allows.
            Everything that goes wrong on a machine that should be able to run it.
        """
        with TemporaryDirectory(dir=self.folder, prefix=".unproven-") as folder:
            path = Path(folder) / plan.name
            write_plan(path, plan.content, plan.sidecar)
            if self.options.strip_weights:
                (path.parent / "weights.onnx").write_bytes(model)
            try:
                backend = open_plan(path)
            except NOT_HERE as error:
                return None, error.problem.replace(str(path), plan.name)
            try:
                return prove(backend, plan.sidecar.profile), None
            finally:
                backend.close()

    def write(self, plan: BuiltPlan, report: ParityReport | None) -> tuple[Path, PlanSidecar]:
        """Puts the plan and its sidecar, with what was measured, in their place."""
        path = self.folder / plan.name
        contract = replace(plan.sidecar.contract, parity=report.parity if report else None)
        sidecar = replace(plan.sidecar, contract=contract)
        write_plan(path, plan.content, sidecar)
        return path, sidecar


def open_plan(plan: Path) -> Backend:
    """A plan on the GPU of this machine; raises what ``open_backend`` does."""
    return open_backend(plan, "tensorrt")
