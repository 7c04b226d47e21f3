// ONNX Runtime's C API, owned and checked, and the options of its providers for GPUs. Included by nst/ort.hpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <onnxruntime_c_api.h>

#include "nst/contract.hpp"
#include "nst/error.hpp"
#include "nst/frame.hpp"
#include "nst/profile.hpp"

#if ORT_API_VERSION < 17
#error "nst/ort.hpp needs ONNX Runtime 1.17 or later"
#endif

namespace nst::ort {

enum class Device { cpu, cuda, tensorrt };

struct Options {
    Device device = Device::cpu;
    int threads = 0;         // CPU threads for one run; 0 takes every core
    int gpu = 0;             // CUDA's number of the device
    void* stream = nullptr;  // the caller's cudaStream_t, on which all work of the GPU is then queued
    // TensorRT alone: where its engines and timings are kept (minutes are spent on them; empty keeps none), and the
    // shapes that it builds for (those of nst-export's plans; of a static engine its own size).
    std::filesystem::path cache_folder;
    Profile profile = {{1, 8, 8}, {1, 512, 512}, {1, 2160, 3840}};
    // Puts further providers (DirectML, CoreML, a plug-in) before the CPU; what it returns is checked.
    std::function<OrtStatus*(const OrtApi&, OrtSessionOptions*)> configure;
};

namespace detail {

inline const OrtApi& api() {
    const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (found == nullptr) {
        throw BackendMissingError(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() +
                                      " is older than the headers that this program was built with, 1." +
                                      std::to_string(ORT_API_VERSION),
                                  "Install that version or a later one");
    }
    return *found;
}

/// Owns what the C API hands out; `Release` is the member of OrtApi that takes it back.
template <class Object, void (ORT_API_CALL* OrtApi::*Release)(Object*)>
class Owned {
  public:
    explicit Owned(const OrtApi& ort) : ort_(&ort) {}
    Owned(Owned&& other) noexcept : ort_(other.ort_), object_(std::exchange(other.object_, nullptr)) {}
    Owned& operator=(Owned&&) = delete;
    ~Owned() {
        if (object_ != nullptr) (ort_->*Release)(object_);
    }

    Object* get() const { return object_; }
    Object** out() { return &object_; }

  private:
    const OrtApi* ort_;
    Object* object_ = nullptr;
};

using Env = Owned<OrtEnv, &OrtApi::ReleaseEnv>;
using Session = Owned<OrtSession, &OrtApi::ReleaseSession>;
using SessionOptions = Owned<OrtSessionOptions, &OrtApi::ReleaseSessionOptions>;
using RunOptions = Owned<OrtRunOptions, &OrtApi::ReleaseRunOptions>;
using Tensor = Owned<OrtValue, &OrtApi::ReleaseValue>;
using MemoryInfo = Owned<OrtMemoryInfo, &OrtApi::ReleaseMemoryInfo>;
using TypeInfo = Owned<OrtTypeInfo, &OrtApi::ReleaseTypeInfo>;
using Binding = Owned<OrtIoBinding, &OrtApi::ReleaseIoBinding>;
using CudaOptions = Owned<OrtCUDAProviderOptionsV2, &OrtApi::ReleaseCUDAProviderOptions>;
using TensorRtOptions = Owned<OrtTensorRTProviderOptionsV2, &OrtApi::ReleaseTensorRTProviderOptions>;

/// What ONNX Runtime complains of, its first line.
struct Failure {
    std::string reason;
};

inline void check(const OrtApi& ort, OrtStatus* status) {
    if (status == nullptr) return;
    std::string message = ort.GetErrorMessage(status);
    ort.ReleaseStatus(status);
    throw Failure{message.substr(0, message.find('\n'))};
}

inline std::string backend_name(Device device) {
    return device == Device::cpu    ? "onnxruntime-cpu"
           : device == Device::cuda ? "onnxruntime-cuda"
                                    : "onnxruntime-tensorrt";
}

using Settings = std::vector<std::pair<std::string, std::string>>;

/// TensorRT's provider takes its profile as "image:1x8x8x3".
inline Settings tensorrt_settings(const Options& options) {
    Settings settings = {{"device_id", std::to_string(options.gpu)}};
    if (!options.cache_folder.empty()) {
        for (const char* kind : {"engine", "timing"}) {
            settings.emplace_back(std::string("trt_") + kind + "_cache_enable", "1");
            settings.emplace_back(std::string("trt_") + kind + "_cache_path", to_text(options.cache_folder));
        }
    }
    const auto add_shape = [&settings](const std::string& name, const Shape& shape) {
        std::string sides = std::string(input_name) + ":";
        for (const int side : shape) sides += std::to_string(side) + "x";
        settings.emplace_back("trt_profile_" + name + "_shapes", sides + std::to_string(channels));
    };
    add_shape("min", options.profile.min);
    add_shape("opt", options.profile.opt);
    add_shape("max", options.profile.max);
    return settings;
}

inline std::pair<std::vector<const char*>, std::vector<const char*>> columns(const Settings& settings) {
    std::pair<std::vector<const char*>, std::vector<const char*>> both;
    for (const auto& [key, value] : settings) {
        both.first.push_back(key.c_str());
        both.second.push_back(value.c_str());
    }
    return both;
}

/// TF32 would be a lower precision than a float32 engine's own. For FP16 it changes nothing, but without it ONNX Runtime
/// (from 1.20 on) takes every kernel for Tensor Cores from the choice, also for FP16.
inline Settings cuda_settings(const Options& options, const std::string& precision) {
    return {{"device_id", std::to_string(options.gpu)}, {"use_tf32", precision == "fp16" ? "1" : "0"}};
}

inline void append_cuda(const OrtApi& ort, OrtSessionOptions* session, const Options& options,
                        const std::string& precision) {
    const Settings settings = cuda_settings(options, precision);
    const auto [keys, values] = columns(settings);
    CudaOptions cuda(ort);
    check(ort, ort.CreateCUDAProviderOptions(cuda.out()));
    check(ort, ort.UpdateCUDAProviderOptions(cuda.get(), keys.data(), values.data(), keys.size()));
    if (options.stream != nullptr) {
        check(ort, ort.UpdateCUDAProviderOptionsWithValue(cuda.get(), "user_compute_stream", options.stream));
    }
    check(ort, ort.SessionOptionsAppendExecutionProvider_CUDA_V2(session, cuda.get()));
}

inline void append_tensorrt(const OrtApi& ort, OrtSessionOptions* session, const Options& options) {
    const Settings settings = tensorrt_settings(options);
    const auto [keys, values] = columns(settings);
    TensorRtOptions tensorrt(ort);
    check(ort, ort.CreateTensorRTProviderOptions(tensorrt.out()));
    check(ort, ort.UpdateTensorRTProviderOptions(tensorrt.get(), keys.data(), values.data(), keys.size()));
    if (options.stream != nullptr) {
        check(ort, ort.UpdateTensorRTProviderOptionsWithValue(tensorrt.get(), "user_compute_stream", options.stream));
    }
    check(ort, ort.SessionOptionsAppendExecutionProvider_TensorRT_V2(session, tensorrt.get()));
}

}  // namespace detail

}  // namespace nst::ort
