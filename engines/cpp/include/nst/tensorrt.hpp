// TensorRT and TensorRT-RTX behind nst::Stylizer. Needs one of the two (TensorRT 10 or later) and the CUDA runtime.
// A program is built with one of them; for TensorRT-RTX it defines NST_TENSORRT_RTX, as the target nst::tensorrt_rtx
// does.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include <NvInferRuntime.h>

#include "nst/cuda_memory.hpp"
#include "nst/plan_file.hpp"
#include "nst/stylizer.hpp"

#if !defined(NST_TENSORRT_RTX) && NV_TENSORRT_MAJOR < 10
#error "nst/tensorrt.hpp needs TensorRT 10 or later, or TensorRT-RTX with NST_TENSORRT_RTX defined"
#endif

namespace nst::tensorrt {

#ifdef NST_TENSORRT_RTX
inline constexpr char flavor[] = "rtx";
#else
inline constexpr char flavor[] = "tensorrt";
#endif

struct Options {
    int gpu = 0;                    // CUDA's number of the device
    cudaStream_t stream = nullptr;  // the caller's, on which all work is queued; null takes one of its own
};

namespace detail {

/// Keeps the first complaint since it was last asked: the later ones follow from it.
class Logger final : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override {
        if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
        try {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (first_.empty()) first_ = message;
        } catch (...) {  // no memory for it
            return;
        }
    }

    std::string take(const std::string& otherwise) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const std::string first = std::exchange(first_, {});
        return first.empty() ? otherwise : first;
    }

  private:
    std::mutex mutex_;
    std::string first_;
};

using Version = std::array<int, 4>;  // 10.13.3.9

/// Of the library that is loaded, which may be a later one than that of the headers.
inline Version version_here() {
    return {getInferLibMajorVersion(), getInferLibMinorVersion(), getInferLibPatchVersion(), getInferLibBuildVersion()};
}

/// What is no number counts as 0.
inline Version parse_version(const std::string& text) {
    Version version{};
    std::istringstream parts(text.substr(0, text.find('+')));
    std::string part;
    for (std::size_t i = 0; i < version.size() && std::getline(parts, part, '.'); ++i) {
        const bool digits =
            !part.empty() && part.size() < 9 && part.find_first_not_of("0123456789") == std::string::npos;
        version[i] = digits ? std::stoi(part) : 0;
    }
    return version;
}

inline std::string to_text(const Version& version) {
    std::string text;
    for (const int part : version) text += (text.empty() ? "" : ".") + std::to_string(part);
    return text;
}

inline std::string library_name(const std::string& of) { return of == "rtx" ? "TensorRT-RTX" : "TensorRT"; }

/// Throws PlanElsewhereError where the library that is loaded cannot load the plan.
inline void check_library(const std::filesystem::path& path, const Sidecar& sidecar) {
    const Version built = parse_version(sidecar.library_version), here = version_here();
    // A portable plan is taken by later versions of the same major one; any other only by the very same.
    const bool taken = built == here || (sidecar.portable && built[0] == here[0] && built <= here);
    if (sidecar.flavor == flavor && taken) return;
    throw PlanElsewhereError(path, library_name(sidecar.flavor) + " " + sidecar.library_version,
                             library_name(flavor) + " " + to_text(here), flavor);
}

/// Throws PlanElsewhereError where the plan was not built for this GPU.
inline void check_gpu(const std::filesystem::path& path, const Sidecar& sidecar, int gpu) {
    constexpr int portable_from = 8;  // compute capability from which on hardware-compatible plans run
    cudaDeviceProp properties{};
    nst::detail::check(cudaGetDeviceProperties(&properties, gpu));
    const std::string capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
    const std::string name = properties.name, here = name + " (compute capability " + capability + ")";
    const auto refuse = [&](const std::string& built_for) {
        throw PlanElsewhereError(path, built_for, here, sidecar.flavor);
    };
    const auto& known = sidecar.compute_capabilities;
    if (!known.empty() && std::find(known.begin(), known.end(), capability) == known.end()) {
        std::string listed;
        for (const std::string& each : known) listed += (listed.empty() ? "" : ", ") + each;
        refuse("GPUs of compute capability " + listed + (sidecar.gpu_name.empty() ? "" : " on " + sidecar.gpu_name));
    }
    if (sidecar.portable && properties.major < portable_from) refuse("GPUs of compute capability 8.0 and later");
    // TensorRT times its kernels on the GPU that builds; RTX compiles them where it runs.
    const bool tied = sidecar.flavor == "tensorrt" && !sidecar.portable && !sidecar.gpu_name.empty();
    if (tied && sidecar.gpu_name != name) refuse(sidecar.gpu_name);
}

}  // namespace detail

/// A plan on the GPU. Its one execution context serves every thread in turn; for work side by side open one per thread.
class Stylizer final : public nst::Stylizer {
  public:
    /// Opens a plan, whose NAME.plan.json lies beside it.
    /// Throws EngineNotFoundError, EngineUnreadableError, NotAnEngineError, WrongKindOfEngineError,
    /// SidecarMissingError, SidecarMalformedError, PlanMismatchError, PlanElsewhereError, PlanWeightsMissingError,
    /// GpuUnavailableError.
    explicit Stylizer(const std::filesystem::path& path, const Options& options = {})
        : Stylizer(path, options, read_plan(path)) {}

    ~Stylizer() override {
        // Streams, buffers and TensorRT's objects are freed on the GPU that they belong to.
        int before = 0;
        cudaGetDevice(&before);
        cudaSetDevice(gpu_);
        stream_.reset();
        context_.reset();
        engine_.reset();
        runtime_.reset();
        device_.reset();
        cudaSetDevice(before);
    }

    std::size_t max_batch() const noexcept override { return static_cast<std::size_t>(profile_.max[0]); }

    void check_size(int height, int width, std::size_t count = 1) const override {
        nst::Stylizer::check_size(height, width, count);
        nst::detail::check_in_profile(profile_, height, width, count);
    }

    /// Styles a frame that is on the GPU to another there, which may be the same. Strides are the caller's, above zero.
    /// With a stream of the caller's it returns once the work is queued there, otherwise once it is done.
    /// Throws FrameError, PictureSizeError, BackendFailedError.
    void run_device(const ConstDeviceFrame& image, const DeviceFrame& styled) { run_device(&image, &styled, 1); }

    /// Styles `count` frames of one size as one batch, or in turns where the plan takes fewer at once.
    void run_device(const ConstDeviceFrame* images, const DeviceFrame* styled, std::size_t count) {
        nst::detail::check_batch(images, styled, count);
        for (std::size_t i = 0; i < count; ++i) {
            if (images[i].stride < 0 || styled[i].stride < 0) {
                throw FrameError("A device frame has a negative stride", "CUDA copies rows from top to bottom");
            }
        }
        for (std::size_t i = 0, turn = 0; i < count; i += turn) {
            turn = std::min(count - i, max_batch());
            check_size(images[i].height, images[i].width, turn);
            guarded([&] { style_device(images + i, styled + i, turn); });
        }
    }

    Status try_run_device(const ConstDeviceFrame& image, const DeviceFrame& styled) noexcept {
        return attempt([&] { run_device(image, styled); });
    }

    /// The stream that the work is queued on.
    cudaStream_t stream() const noexcept { return stream_->get(); }

  protected:
    void style(const ConstFrame* images, const Frame* styled, std::size_t count) override {
        guarded([&] {
            const std::size_t bytes = images[0].bytes(), all = bytes * count;
            const int height = images[0].height, width = images[0].width;
            std::uint8_t* const pinned_in = device_->pinned_in.reserve(all);
            std::uint8_t* const pinned_out = device_->pinned_out.reserve(all);
            std::uint8_t *const in = device_->in.reserve(all), *const out = device_->out.reserve(all);
            for (std::size_t i = 0; i < count; ++i) {
                copy_pixels(images[i], Frame(pinned_in + i * bytes, height, width));
            }
            nst::detail::check(cudaMemcpyAsync(in, pinned_in, all, cudaMemcpyHostToDevice, stream()));
            queue(in, out, count, height, width);
            nst::detail::check(cudaMemcpyAsync(pinned_out, out, all, cudaMemcpyDeviceToHost, stream()));
            nst::detail::check(cudaStreamSynchronize(stream()));
            for (std::size_t i = 0; i < count; ++i) {
                copy_pixels(ConstFrame(pinned_out + i * bytes, height, width), styled[i]);
            }
        });
    }

  private:
    static constexpr std::uintptr_t alignment = 256;  // bytes, of every address that TensorRT is given

    struct Buffers {
        nst::detail::DeviceBuffer in, out;
        nst::detail::PinnedBuffer pinned_in, pinned_out;
    };

    Stylizer(const std::filesystem::path& path, const Options& options, PlanFile plan)
        : nst::Stylizer(std::move(plan.sidecar.contract), std::string(flavor) == "rtx" ? "tensorrt-rtx" : "tensorrt"),
          gpu_(options.gpu),
          profile_(plan.sidecar.profile) {
        try {
            const nst::detail::CurrentDevice current(gpu_);
            detail::check_library(path, plan.sidecar);
            detail::check_gpu(path, plan.sidecar, gpu_);
            if (plan.sidecar.weights_stripped) {
                throw PlanWeightsMissingError(path, "this program", "only Python's runtime refits plans");
            }
            stream_.emplace(options.stream);
            device_.emplace();
            deserialize(path, plan);
        } catch (const nst::detail::CudaFailure& failure) {
            throw GpuUnavailableError(failure.reason);
        }
    }

    void deserialize(const std::filesystem::path& path, const PlanFile& plan) {
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(plan.bytes.data(), plan.bytes.size()));
        if (!engine_) throw EngineUnreadableError(path, logger_.take("it is damaged or no plan"));
        check_tensors(path);
        context_.reset(engine_->createExecutionContext());
        if (!context_) throw BackendFailedError(backend(), logger_.take("no execution context"));
    }

    void check_tensors(const std::filesystem::path& path) const {
        bool kept = engine_->getNbIOTensors() == 2;
        for (int i = 0; kept && i < 2; ++i) {
            const std::string name = engine_->getIOTensorName(i);
            const bool input = engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
            kept = name == (input ? input_name : output_name) &&
                   engine_->getTensorDataType(name.c_str()) == nvinfer1::DataType::kUINT8;
        }
        if (!kept) {
            throw NotAnEngineError(path, std::string("its tensors are others, expected one uint8 input '") +
                                             input_name + "' and one uint8 output '" + output_name + "'");
        }
    }

    /// On the device from here on: copies only where TensorRT cannot take the caller's memory as it is.
    void style_device(const ConstDeviceFrame* images, const DeviceFrame* styled, std::size_t count) {
        const std::size_t bytes = images[0].bytes();
        const bool shared = images[0].data == styled[0].data;
        const bool direct_in = count == 1 && usable(images[0]) && !shared, direct_out = count == 1 && usable(styled[0]);
        std::uint8_t* in = const_cast<std::uint8_t*>(images[0].data);
        if (!direct_in) {
            in = device_->in.reserve(bytes * count);
            for (std::size_t i = 0; i < count; ++i) {
                copy_rows(in + i * bytes, images[i].row_bytes(), images[i].data, images[i].stride, images[i]);
            }
        }
        std::uint8_t* const out = direct_out ? styled[0].data : device_->out.reserve(bytes * count);
        queue(in, out, count, images[0].height, images[0].width);
        for (std::size_t i = 0; !direct_out && i < count; ++i) {
            copy_rows(styled[i].data, styled[i].stride, out + i * bytes, styled[i].row_bytes(), styled[i]);
        }
        if (stream_->own()) nst::detail::check(cudaStreamSynchronize(stream()));
    }

    template <class AnyFrame>
    static bool usable(const AnyFrame& frame) {
        return frame.packed() && reinterpret_cast<std::uintptr_t>(frame.data) % alignment == 0;
    }

    template <class To, class From, class AnyFrame>
    void copy_rows(std::uint8_t* to, To to_stride, const std::uint8_t* from, From from_stride, const AnyFrame& size) {
        nst::detail::check(cudaMemcpy2DAsync(
            to, static_cast<std::size_t>(to_stride), from, static_cast<std::size_t>(from_stride), size.row_bytes(),
            static_cast<std::size_t>(size.height), cudaMemcpyDeviceToDevice, stream()));
    }

    void queue(std::uint8_t* in, std::uint8_t* out, std::size_t count, int height, int width) {
        nvinfer1::Dims dims{};
        dims.nbDims = 4;
        dims.d[0] = static_cast<int>(count);
        dims.d[1] = height;
        dims.d[2] = width;
        dims.d[3] = channels;
        const bool queued = context_->setInputShape(input_name, dims) && context_->setTensorAddress(input_name, in) &&
                            context_->setTensorAddress(output_name, out) && context_->enqueueV3(stream());
        if (!queued) throw BackendFailedError(backend(), logger_.take("the work could not be queued"));
    }

    template <class Work>
    void guarded(Work&& work) {
        const std::lock_guard<std::mutex> lock(mutex_);
        try {
            const nst::detail::CurrentDevice current(gpu_);
            work();
        } catch (const nst::detail::CudaFailure& failure) {
            throw BackendFailedError(backend(), failure.reason);
        }
    }

    int gpu_;
    Profile profile_;
    detail::Logger logger_;  // outlives the runtime that writes to it
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::optional<Buffers> device_;
    std::optional<nst::detail::Stream> stream_;
    std::mutex mutex_;
};

}  // namespace nst::tensorrt
