#include "engine.hpp"

#include <filesystem>

#ifdef NST_WITH_OPENVINO
#include "nst/openvino.hpp"
#endif
#ifdef NST_WITH_ORT
#include "nst/ort.hpp"
#endif
#ifdef NST_WITH_TENSORRT
#include "nst/tensorrt.hpp"
#endif

namespace programs {
namespace {

constexpr int max_threads = 256;  // more than any machine gains from

struct Request {
    std::filesystem::path engine;
    bool bf16 = false;
    int threads = 0;
};

[[maybe_unused]] void refuse_bf16(const Request& request, const std::string& device) {
    if (request.bf16) throw UsageError("--device " + device + " does not compute in bf16: choose --device openvino");
}

[[noreturn, maybe_unused]] void not_built_with(const std::string& device, const std::string& library) {
    throw UsageError("--device " + device + " is not in this build: build it where CMake finds " + library);
}

std::unique_ptr<nst::Stylizer> open_openvino([[maybe_unused]] const Request& request) {
#ifdef NST_WITH_OPENVINO
    nst::openvino::Options options;
    options.bf16 = request.bf16;
    options.threads = request.threads;
    return std::make_unique<nst::openvino::Stylizer>(request.engine, options);
#else
    not_built_with("openvino", "OpenVINO");
#endif
}

std::unique_ptr<nst::Stylizer> open_ort([[maybe_unused]] const Request& request, [[maybe_unused]] bool cuda) {
#ifdef NST_WITH_ORT
    refuse_bf16(request, cuda ? "cuda" : "cpu");
    nst::ort::Options options;
    options.device = cuda ? nst::ort::Device::cuda : nst::ort::Device::cpu;
    options.threads = request.threads;
    return std::make_unique<nst::ort::Stylizer>(request.engine, options);
#else
    not_built_with(cuda ? "cuda" : "cpu", "ONNX Runtime");
#endif
}

std::unique_ptr<nst::Stylizer> open_tensorrt([[maybe_unused]] const Request& request) {
#ifdef NST_WITH_TENSORRT
    refuse_bf16(request, "tensorrt");
    return std::make_unique<nst::tensorrt::Stylizer>(request.engine);
#else
    not_built_with("tensorrt", "TensorRT");
#endif
}

/// The fastest in this build at the engine's own precision; nothing is measured.
std::string choose_device(const Request& request) {
    if (request.engine.extension() == ".plan") return "tensorrt";
#ifdef NST_WITH_OPENVINO
    return "openvino";
#else
    return "cpu";
#endif
}

}  // namespace

std::vector<Option> engine_options() {
    return {
        {"--engine", "FILE", "an engine made by nst-export: .onnx, or .plan with its .plan.json (required)"},
        {"--device", "NAME",
         "auto, openvino, cpu or cuda (ONNX Runtime), tensorrt (default: auto, the fastest built in)"},
        {"--precision", "bf16", "compute in less than the engine's precision, on OpenVINO where the CPU has it"},
        {"--threads", "N", "CPU threads (default: every core)"},
    };
}

std::unique_ptr<nst::Stylizer> open_engine(const Arguments& arguments) {
    Request request;
    request.engine = std::filesystem::u8path(arguments.required("--engine"));
    request.threads = arguments.number("--threads", 1, max_threads, 0);
    request.bf16 = arguments.has("--precision");
    const std::string precision = arguments.value("--precision", "bf16");
    if (precision != "bf16") throw UsageError("--precision: '" + precision + "' given, expected bf16");
    std::string device = arguments.value("--device", "auto");
    if (device == "auto") device = choose_device(request);
    if (device == "openvino") return open_openvino(request);
    if (device == "cpu" || device == "cuda") return open_ort(request, device == "cuda");
    if (device == "tensorrt") return open_tensorrt(request);
    throw UsageError("--device: '" + device + "' given, expected auto, openvino, cpu, cuda or tensorrt");
}

}  // namespace programs
