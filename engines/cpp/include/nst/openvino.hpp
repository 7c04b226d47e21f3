// OpenVINO behind nst::Stylizer. Needs OpenVINO's C++ runtime (2025.4 or later) and nothing else.
#pragma once

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <openvino/runtime/core.hpp>

#include "nst/engine_file.hpp"
#include "nst/stylizer.hpp"

namespace nst::openvino {

struct Options {
    bool bf16 = false;           // compute in bfloat16: faster where the CPU has it, and no longer the same picture
    int threads = 0;             // CPU threads for one run; 0 takes every core
    std::string device = "CPU";  // OpenVINO's name of the device
    std::filesystem::path cache_folder;  // where compiled models are kept for a faster start; empty keeps none
};

namespace detail {

/// "openvino-cpu-bf16": as nst's other reports name it.
inline std::string backend_name(const Contract& contract, const Options& options) {
    std::string device = options.device;
    std::transform(device.begin(), device.end(), device.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    return "openvino-" + device + (contract.precision == "int8" ? "-int8" : "") + (options.bf16 ? "-bf16" : "");
}

/// The one telling line of OpenVINO's many: it stands last, below the places in its source.
inline std::string reason(const std::exception& error) {
    std::istringstream lines(error.what());
    std::string line, last = "an unknown error";
    while (std::getline(lines, line)) {
        if (line.find_first_not_of(" \t\r") != std::string::npos) last = line;
    }
    return last;
}

inline ov::AnyMap configuration(const Options& options) {
    ov::AnyMap config = {
        ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
        // Left to itself it takes the fastest that the device has.
        ov::hint::inference_precision(options.bf16 ? ov::element::bf16 : ov::element::f32),
    };
    if (options.device == "CPU") {
        config.insert(ov::hint::enable_cpu_pinning(false));  // two programs would be pinned to the same core
        if (options.threads > 0) config.insert(ov::inference_num_threads(options.threads));
    }
    if (!options.cache_folder.empty()) config.insert(ov::cache_dir(to_text(options.cache_folder)));
    return config;
}

template <class Ports>
void check_tensors(const std::filesystem::path& path, const std::string& role, const Ports& ports, const char* name) {
    std::string given;
    for (const auto& port : ports) {
        std::vector<std::string> names(port.get_names().begin(), port.get_names().end());
        std::sort(names.begin(), names.end());
        std::string quoted;
        for (const std::string& each : names) quoted += (quoted.empty() ? "'" : ", '") + each + "'";
        given += (given.empty() ? "([" : ", ([") + quoted + "], '" + port.get_element_type().to_string() + "')";
    }
    if (given != "(['" + std::string(name) + "'], 'u8')") {
        throw NotAnEngineError(path, "its " + role + " is [" + given + "], expected one uint8 tensor '" + name + "'");
    }
}

}  // namespace detail

/// An engine on OpenVINO, in the engine's own precision unless bf16 is asked for; one model serves every size.
class Stylizer final : public PackedStylizer {
  public:
    /// Opens an ONNX engine.
    /// Throws EngineNotFoundError, EngineUnreadableError, NotAnEngineError, WrongKindOfEngineError,
    /// PrecisionUnavailableError, OptionError.
    explicit Stylizer(const std::filesystem::path& path, const Options& options = {})
        : Stylizer(path, options, read_engine(path)) {}

    /// OpenVINO's own object, for what this class does not do.
    ov::CompiledModel& compiled() noexcept { return compiled_; }

  protected:
    void infer(const std::uint8_t* images, std::uint8_t* styled, std::size_t count, int height, int width) override {
        const ov::Shape shape = {count, static_cast<std::size_t>(height), static_cast<std::size_t>(width), channels};
        try {
            // A request costs some microseconds, and one per run needs no lock. The tensors are views, not copies.
            ov::InferRequest request = compiled_.create_infer_request();
            request.set_input_tensor(ov::Tensor(ov::element::u8, shape, const_cast<std::uint8_t*>(images)));
            request.set_output_tensor(ov::Tensor(ov::element::u8, shape, styled));
            request.infer();
        } catch (const ov::Exception& error) {
            throw BackendFailedError(backend(), detail::reason(error));
        }
    }

  private:
    Stylizer(const std::filesystem::path& path, const Options& options, EngineFile engine)
        : PackedStylizer(engine.contract, detail::backend_name(engine.contract, options)) {
        check_options(options);
        try {
            const std::shared_ptr<ov::Model> model = core_.read_model(engine.bytes, ov::Tensor());
            compiled_ = core_.compile_model(model, options.device, detail::configuration(options));
        } catch (const ov::Exception&) {
            throw EngineUnreadableError(path, "it is damaged or not an ONNX model");
        }
        detail::check_tensors(path, "input", compiled_.inputs(), input_name);
        detail::check_tensors(path, "output", compiled_.outputs(), output_name);
        // Asked for what it lacks, OpenVINO takes the next best and says so only here.
        const ov::element::Type wanted = options.bf16 ? ov::element::bf16 : ov::element::f32;
        if (compiled_.get_property(ov::hint::inference_precision) != wanted) {
            throw PrecisionUnavailableError(options.bf16 ? "bf16" : "f32");
        }
    }

    void check_options(const Options& options) {
        if (options.threads < 0) {
            throw OptionError("threads is " + std::to_string(options.threads) + ", expected 0 or more",
                              "0 takes every core");
        }
        std::vector<std::string> able;
        try {
            able = core_.get_property(options.device, ov::device::capabilities);
        } catch (const ov::Exception& error) {
            throw OptionError("OpenVINO has no device '" + options.device + "' here: " + detail::reason(error),
                              "Leave it away: CPU is always there");
        }
        if (options.bf16 && std::find(able.begin(), able.end(), ov::device::capability::BF16) == able.end()) {
            throw PrecisionUnavailableError("bf16");
        }
    }

    ov::Core core_;
    ov::CompiledModel compiled_;
};

}  // namespace nst::openvino
