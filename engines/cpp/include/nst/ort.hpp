// ONNX Runtime behind nst::Stylizer: its CPU, CUDA and TensorRT providers. Needs ONNX Runtime's C API (1.17 or later)
// and nothing else; the CUDA providers need its GPU package at run time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "nst/engine_file.hpp"
#include "nst/ort_api.hpp"
#include "nst/profile.hpp"
#include "nst/stylizer.hpp"

namespace nst::ort {

/// An engine on ONNX Runtime, in the engine's own precision.
class Stylizer final : public PackedStylizer {
  public:
    /// Opens an ONNX engine.
    /// Throws EngineNotFoundError, EngineUnreadableError, NotAnEngineError, WrongKindOfEngineError,
    /// BackendMissingError, ProviderUnavailableError, ProviderPrecisionError, OptionError.
    explicit Stylizer(const std::filesystem::path& path, const Options& options = {})
        : Stylizer(path, options, read_engine(path)) {}

    std::size_t max_batch() const noexcept override {
        return options_.device == Device::tensorrt ? static_cast<std::size_t>(options_.profile.max[0])
                                                   : PackedStylizer::max_batch();
    }

    void check_size(int height, int width, std::size_t count = 1) const override {
        PackedStylizer::check_size(height, width, count);
        if (options_.device == Device::tensorrt) nst::detail::check_in_profile(options_.profile, height, width, count);
    }

    /// Styles a frame that is on the GPU to another there, both without gaps between their rows.
    /// With a stream of the caller's it returns once the work is queued there, otherwise once it is done.
    /// Throws as `run`, and OptionError where the device is the CPU.
    void run_device(const ConstDeviceFrame& image, const DeviceFrame& styled) {
        if (options_.device == Device::cpu) {
            throw OptionError("Device frames were given to a Stylizer on the CPU", "Open it with Device::cuda");
        }
        nst::detail::check_batch(&image, &styled, 1);
        if (!image.packed() || !styled.packed()) {
            throw FrameError("A device frame has gaps between its rows", "ONNX Runtime takes packed ones alone");
        }
        check_size(image.height, image.width);
        guarded([&] {
            const Shape4 shape = {1, image.height, image.width, channels};
            const detail::Tensor in = tensor(device_memory_, const_cast<std::uint8_t*>(image.data), shape);
            const detail::Tensor out = tensor(device_memory_, styled.data, shape);
            detail::Binding binding(ort_);
            check(ort_.CreateIoBinding(session_.get(), binding.out()));
            check(ort_.BindInput(binding.get(), input_name, in.get()));
            check(ort_.BindOutput(binding.get(), output_name, out.get()));
            check(ort_.RunWithBinding(session_.get(), queueing_.get(), binding.get()));
        });
    }

    Status try_run_device(const ConstDeviceFrame& image, const DeviceFrame& styled) noexcept {
        return attempt([&] { run_device(image, styled); });
    }

  protected:
    void infer(const std::uint8_t* images, std::uint8_t* styled, std::size_t count, int height, int width) override {
        const Shape4 shape = {static_cast<std::int64_t>(count), height, width, channels};
        guarded([&] {
            const detail::Tensor in = tensor(host_memory_, const_cast<std::uint8_t*>(images), shape);
            const detail::Tensor out = tensor(host_memory_, styled, shape);
            const char *const in_names[] = {input_name}, *const out_names[] = {output_name};
            const OrtValue* const inputs[] = {in.get()};
            OrtValue* outputs[] = {out.get()};
            check(ort_.Run(session_.get(), run_options(shape), in_names, inputs, 1, out_names, 1, outputs));
        });
    }

  private:
    using Shape4 = std::array<std::int64_t, 4>;  // N, H, W, C

    static constexpr char tf32_switch[] = "NVIDIA_TF32_OVERRIDE";  // a variable of NVIDIA's libraries; 0 is never
    static constexpr int errors_only = ORT_LOGGING_LEVEL_ERROR;    // what it warns of is for its own developers

    Stylizer(const std::filesystem::path& path, Options options, EngineFile engine)
        : PackedStylizer(std::move(engine.contract), detail::backend_name(options.device)),
          options_(std::move(options)) {
        if (const auto& size = contract().static_size) {
            for (Shape* shape : {&options_.profile.min, &options_.profile.opt, &options_.profile.max}) {
                (*shape)[1] = size->height;
                (*shape)[2] = size->width;
            }
        }
        if (options_.threads < 0) {
            throw OptionError("threads is " + std::to_string(options_.threads) + ", expected 0 or more",
                              "0 takes every core");
        }
        const char* const tf32 = std::getenv(tf32_switch);
        const bool exact = contract().precision != "fp32" || (tf32 != nullptr && std::string(tf32) == "0");
        if (options_.device == Device::tensorrt && !exact) throw ProviderPrecisionError(tf32_switch);
        guarded([&] { prepare(); });
        const detail::SessionOptions session_options = configure();
        try {
            check(ort_.CreateSessionFromArray(env_.get(), engine.bytes.data(), engine.bytes.size(),
                                              session_options.get(), session_.out()));
        } catch (const detail::Failure& failure) {
            const bool on_gpu = options_.device != Device::cpu;  // where it fails for want of memory or libraries, too
            throw EngineUnreadableError(path, on_gpu ? failure.reason : "it is damaged or not an ONNX model");
        }
        guarded([&] { check_tensors(path); });
    }

    void prepare() {
        check(ort_.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "nst", env_.out()));
        check(ort_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, host_memory_.out()));
        check(ort_.CreateMemoryInfo("Cuda", OrtDeviceAllocator, options_.gpu, OrtMemTypeDefault, device_memory_.out()));
        for (detail::RunOptions* run : {&shrinking_, &queueing_}) {
            check(ort_.CreateRunOptions(run->out()));
            check(ort_.RunOptionsSetRunLogSeverityLevel(run->get(), errors_only));
        }
        check(ort_.AddRunConfigEntry(shrinking_.get(), "memory.enable_memory_arena_shrinkage", "cpu:0"));
        if (options_.stream != nullptr) {
            check(ort_.AddRunConfigEntry(queueing_.get(), "disable_synchronize_execution_providers", "1"));
        }
    }

    detail::SessionOptions configure() {
        detail::SessionOptions session(ort_);
        guarded([&] {
            check(ort_.CreateSessionOptions(session.out()));
            check(ort_.SetSessionLogSeverityLevel(session.get(), errors_only));
            // Patterns are kept per size, and each holds memory of its own.
            check(ort_.DisableMemPattern(session.get()));
            if (options_.threads > 0) check(ort_.SetIntraOpNumThreads(session.get(), options_.threads));
        });
        try {
            // TensorRT first, CUDA for what it leaves over, the CPU for nothing if all is well.
            if (options_.device == Device::tensorrt) {
                detail::append_tensorrt(ort_, session.get(), options_);
            }
            if (options_.device != Device::cpu) {
                detail::append_cuda(ort_, session.get(), options_, contract().precision);
            }
            if (options_.configure) check(options_.configure(ort_, session.get()));
        } catch (const detail::Failure& failure) {
            const std::string reason = failure.reason.substr(0, failure.reason.find_last_not_of(". ") + 1);
            const char* const name = options_.device == Device::tensorrt ? "TensorrtExecutionProvider"
                                     : options_.device == Device::cuda   ? "CUDAExecutionProvider"
                                                                         : "additional provider";
            throw ProviderUnavailableError(name, reason, "Use its package for GPUs, with the libraries that it needs");
        }
        return session;
    }

    void check_tensors(const std::filesystem::path& path) {
        check_tensors(path, "input", input_name, &OrtApi::SessionGetInputCount, &OrtApi::SessionGetInputName,
                      &OrtApi::SessionGetInputTypeInfo);
        check_tensors(path, "output", output_name, &OrtApi::SessionGetOutputCount, &OrtApi::SessionGetOutputName,
                      &OrtApi::SessionGetOutputTypeInfo);
    }

    template <class Count, class Name, class Type>
    void check_tensors(const std::filesystem::path& path, const std::string& role, const std::string& name,
                       Count count_of, Name name_of, Type type_of) {
        OrtAllocator* allocator = nullptr;
        check(ort_.GetAllocatorWithDefaultOptions(&allocator));
        std::size_t count = 0;
        check((ort_.*count_of)(session_.get(), &count));
        std::string given;
        bool uint8 = true;
        for (std::size_t i = 0; i < count; ++i) {
            char* text = nullptr;
            check((ort_.*name_of)(session_.get(), i, allocator, &text));
            given += (given.empty() ? "'" : ", '") + std::string(text) + "'";
            check(ort_.AllocatorFree(allocator, text));
            detail::TypeInfo type(ort_);
            check((ort_.*type_of)(session_.get(), i, type.out()));
            const OrtTensorTypeAndShapeInfo* info = nullptr;
            ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
            check(ort_.CastTypeInfoToTensorInfo(type.get(), &info));
            if (info != nullptr) check(ort_.GetTensorElementType(info, &element));
            uint8 = uint8 && element == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        }
        if (!uint8 || given != "'" + name + "'") {
            const std::string kind = uint8 ? "" : " of another type";
            throw NotAnEngineError(
                path, "its " + role + " is [" + given + "]" + kind + ", expected one uint8 tensor '" + name + "'");
        }
    }

    detail::Tensor tensor(const detail::MemoryInfo& memory, std::uint8_t* data, const Shape4& shape) {
        std::size_t bytes = 1;
        for (const std::int64_t side : shape) bytes *= static_cast<std::size_t>(side);
        detail::Tensor value(ort_);
        check(ort_.CreateTensorWithDataAsOrtValue(memory.get(), data, bytes, shape.data(), shape.size(),
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, value.out()));
        return value;
    }

    /// Blocks cut for one size seldom fit the next, so pictures of many sizes would pile up memory.
    const OrtRunOptions* run_options(const Shape4& shape) {
        std::uint64_t key = 0;
        for (const std::int64_t side : shape) key = key * 0x9E3779B97F4A7C15U + static_cast<std::uint64_t>(side);
        const bool same = last_shape_.exchange(key) == key;
        return same || options_.device != Device::cpu ? nullptr : shrinking_.get();
    }

    void check(OrtStatus* status) const { detail::check(ort_, status); }

    template <class Work>
    void guarded(Work&& work) const {
        try {
            work();
        } catch (const detail::Failure& failure) {
            throw BackendFailedError(backend(), failure.reason);
        }
    }

    const OrtApi& ort_ = detail::api();
    Options options_;
    detail::Env env_{ort_};
    detail::MemoryInfo host_memory_{ort_}, device_memory_{ort_};
    detail::RunOptions shrinking_{ort_}, queueing_{ort_};
    detail::Session session_{ort_};
    std::atomic<std::uint64_t> last_shape_{0};
};

}  // namespace nst::ort
