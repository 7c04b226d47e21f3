// The part of TensorRT's runtime API that nst/tensorrt.hpp uses, over an engine that makes negatives with the channels
// in reverse: what tests/engines.py writes as ONNX. A plan is the text "fake plan", with " float" for other tensors.
#pragma once

#include <cstdint>
#include <string>

#include "cuda_runtime_api.h"

#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 13
#define NV_TENSORRT_PATCH 3

inline std::int32_t getInferLibMajorVersion() noexcept { return NV_TENSORRT_MAJOR; }
inline std::int32_t getInferLibMinorVersion() noexcept { return NV_TENSORRT_MINOR; }
inline std::int32_t getInferLibPatchVersion() noexcept { return NV_TENSORRT_PATCH; }
inline std::int32_t getInferLibBuildVersion() noexcept { return 9; }

namespace nvinfer1 {

using AsciiChar = char;

class ILogger {
  public:
    enum class Severity { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, const AsciiChar* message) noexcept = 0;
    virtual ~ILogger() = default;
};

enum class DataType : std::int32_t { kFLOAT = 0, kUINT8 = 5 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

struct Dims {
    std::int32_t nbDims;
    std::int64_t d[8];
};

class IExecutionContext {
  public:
    explicit IExecutionContext(ILogger& logger) : logger_(logger) {}

    bool setInputShape(const char* name, const Dims& dims) noexcept {
        dims_ = dims;
        if (std::string(name) == "image" && dims.nbDims == 4 && dims.d[3] == 3) return true;
        logger_.log(ILogger::Severity::kERROR, "a wrong shape");
        return false;
    }
    bool setTensorAddress(const char* name, void* address) noexcept {
        if (reinterpret_cast<std::uintptr_t>(address) % 256 != 0)
            fake::misuse("an address that is not a multiple of 256");
        (std::string(name) == "image" ? in_ : out_) = static_cast<std::uint8_t*>(address);
        return true;
    }
    bool enqueueV3(cudaStream_t stream) noexcept {
        const std::int64_t pixels = dims_.d[0] * dims_.d[1] * dims_.d[2];
        if (pixels > 400000) {
            logger_.log(ILogger::Severity::kWARNING, "only a warning");
            logger_.log(ILogger::Severity::kERROR, "no room for activations");
            logger_.log(ILogger::Severity::kERROR, "what follows from it");
            return false;
        }
        fake::expect_device(in_, static_cast<std::size_t>(pixels) * 3);
        fake::expect_device(out_, static_cast<std::size_t>(pixels) * 3);
        if (in_ == out_) fake::misuse("input and output are the same memory");
        ++fake::Machine::get().queued;
        fake_queue(stream, [pixels, in = in_, out = out_] {
            for (std::int64_t i = 0; i < pixels; ++i) {
                for (int c = 0; c < 3; ++c) out[3 * i + c] = static_cast<std::uint8_t>(255 - in[3 * i + 2 - c]);
            }
        });
        return true;
    }

  private:
    ILogger& logger_;
    Dims dims_{};
    std::uint8_t *in_ = nullptr, *out_ = nullptr;
};

class ICudaEngine {
  public:
    ICudaEngine(ILogger& logger, DataType type) : logger_(logger), type_(type) {}

    std::int32_t getNbIOTensors() const noexcept { return 2; }
    const char* getIOTensorName(std::int32_t index) const noexcept { return index == 0 ? "image" : "styled"; }
    DataType getTensorDataType(const char*) const noexcept { return type_; }
    TensorIOMode getTensorIOMode(const char* name) const noexcept {
        return std::string(name) == "image" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext(logger_); }

  private:
    ILogger& logger_;
    DataType type_;
};

class IRuntime {
  public:
    explicit IRuntime(ILogger& logger) : logger_(logger) {}

    ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t size) noexcept {
        const std::string text(static_cast<const char*>(plan), size);
        if (text.compare(0, 9, "fake plan") != 0) {
            logger_.log(ILogger::Severity::kERROR, "the magic tag does not match");
            return nullptr;
        }
        return new ICudaEngine(logger_, text == "fake plan float" ? DataType::kFLOAT : DataType::kUINT8);
    }

  private:
    ILogger& logger_;
};

inline IRuntime* createInferRuntime(ILogger& logger) noexcept { return new IRuntime(logger); }

}  // namespace nvinfer1
