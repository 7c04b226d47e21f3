// Every error that a program can meet, each with its remedy: the same words as nst_deploy/errors.py.
#pragma once

#include <cstddef>
#include <filesystem>
#include <ios>
#include <locale>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace nst {

/// What went wrong, for programs that decide by it; the message is for people.
enum class Code {
    ok,
    engine_not_found,
    engine_unreadable,
    not_an_engine,
    sidecar_missing,
    sidecar_malformed,
    plan_mismatch,
    plan_elsewhere,
    plan_weights_missing,
    wrong_kind_of_engine,
    precision_unavailable,
    provider_unavailable,
    gpu_unavailable,
    out_of_device_memory,
    backend_missing,
    backend_failed,
    picture_size,
    frame_invalid,
    option_invalid,
    out_of_memory,
    unforeseen,
};

/// A path as messages print it, UTF-8.
inline std::string to_text(const std::filesystem::path& path) {
    const auto utf8 = path.u8string();  // char8_t from C++20 on
    return std::string(utf8.begin(), utf8.end());
}

/// Something the user can mend: one line that says what was given, what was expected and what to do.
class Error : public std::runtime_error {
  public:
    Error(Code code, const std::string& problem, const std::string& remedy)
        : std::runtime_error(one_line(problem + ". " + remedy)), code_(code) {}

    Code code() const noexcept { return code_; }

  private:
    static std::string one_line(const std::string& text) {
        std::istringstream words(text);
        std::string line, word;
        while (words >> word) line += (line.empty() ? "" : " ") + word;
        return line;
    }

    Code code_;
};

// --- engines ---

struct EngineNotFoundError : Error {
    explicit EngineNotFoundError(const std::filesystem::path& path)
        : Error(Code::engine_not_found, "No engine at " + to_text(path),
                "Check the path, or make one: nst-export --ckpt CHECKPOINT") {}
};

/// Not an ONNX file or plan, or a damaged one.
struct EngineUnreadableError : Error {
    EngineUnreadableError(const std::filesystem::path& path, const std::string& reason)
        : Error(Code::engine_unreadable, "Cannot load " + to_text(path) + " as an engine: " + reason,
                "Copy it anew, or export it again: nst-export") {}
};

/// A valid model that does not keep the engines' contract.
struct NotAnEngineError : Error {
    NotAnEngineError(const std::filesystem::path& path, const std::string& reason)
        : Error(Code::not_an_engine, to_text(path) + " is not an nst engine: " + reason,
                "Engines are made from checkpoints: nst-export --ckpt CHECKPOINT") {}
};

struct SidecarMissingError : Error {
    SidecarMissingError(const std::filesystem::path& plan, const std::filesystem::path& sidecar)
        : Error(Code::sidecar_missing,
                to_text(plan) + " has no " + to_text(sidecar.filename()) +
                    " beside it, which says what it takes and what can run it",
                "Copy that too, or build the plan again: nst-export --format plan --ckpt CHECKPOINT") {}
};

struct SidecarMalformedError : Error {
    SidecarMalformedError(const std::filesystem::path& sidecar, const std::string& reason)
        : Error(Code::sidecar_malformed, to_text(sidecar) + " does not describe a plan: " + reason,
                "Build the plan again: nst-export --format plan --ckpt CHECKPOINT") {}
};

/// The sidecar describes another file than the plan beside it.
struct PlanMismatchError : Error {
    PlanMismatchError(const std::filesystem::path& plan, const std::filesystem::path& sidecar)
        : Error(Code::plan_mismatch,
                to_text(plan) + " is not the file that " + to_text(sidecar.filename()) +
                    " describes: it was replaced or cut short",
                "Copy both anew, or build the plan again: nst-export --format plan --ckpt CHECKPOINT") {}
};

/// A plan that was built for another library, version or GPU than what is here.
struct PlanElsewhereError : Error {
    PlanElsewhereError(const std::filesystem::path& plan, const std::string& built_for, const std::string& here,
                       const std::string& flavor)
        : Error(Code::plan_elsewhere, to_text(plan) + " was built for " + built_for + ", here is " + here,
                "Build it here: nst-export --format plan --trt-flavor " + flavor + " --ckpt CHECKPOINT") {}
};

/// A stripped plan whose weights are not at hand.
struct PlanWeightsMissingError : Error {
    PlanWeightsMissingError(const std::filesystem::path& plan, const std::string& looked_for, const std::string& reason)
        : Error(Code::plan_weights_missing,
                to_text(plan) + " holds no weights, and " + looked_for + " does not give them: " + reason,
                "Put the ONNX engine that it was built from beside it, or build it without --strip-weights") {}
};

/// A plan where an ONNX engine is needed, or the other way round.
struct WrongKindOfEngineError : Error {
    WrongKindOfEngineError(const std::filesystem::path& engine, const std::string& given, const std::string& remedy)
        : Error(Code::wrong_kind_of_engine, to_text(engine) + " is " + given, remedy) {}
};

// --- back ends ---

struct PrecisionUnavailableError : Error {
    explicit PrecisionUnavailableError(const std::string& precision)
        : Error(Code::precision_unavailable, "This CPU does not compute in " + precision,
                "Leave --precision away: the engine's own runs everywhere") {}
};

struct GpuUnavailableError : Error {
    explicit GpuUnavailableError(const std::string& reason)
        : Error(Code::gpu_unavailable, "No CUDA GPU can be used here: " + reason,
                "Look at what nvidia-smi shows, or run it without: --device cpu") {}
};

/// The GPU's memory does not suffice; sizes in bytes.
struct OutOfDeviceMemoryError : Error {
    OutOfDeviceMemoryError(std::size_t need, std::size_t free, std::size_t total)
        : Error(Code::out_of_device_memory,
                "Out of GPU memory: " + gib(need) + " needed, " + gib(free) + " of " + gib(total) + " were free",
                "Make the picture smaller (--size), give fewer at once, or close other programs on the GPU") {}

  private:
    static std::string gib(std::size_t bytes) {
        std::ostringstream text;
        text.imbue(std::locale::classic());
        text.setf(std::ios::fixed);
        text.precision(2);
        text << static_cast<double>(bytes) / (1 << 30) << " GiB";
        return text.str();
    }
};

/// An execution provider of ONNX Runtime that is not part of the library, or does not load.
struct ProviderUnavailableError : Error {
    ProviderUnavailableError(const std::string& provider, const std::string& reason, const std::string& remedy)
        : Error(Code::provider_unavailable, "ONNX Runtime's " + provider + " cannot be used: " + reason, remedy) {}
};

struct ProviderPrecisionError : Error {
    explicit ProviderPrecisionError(const std::string& switch_name)
        : Error(Code::option_invalid,
                "ONNX Runtime's TensorRT provider would compute this float32 engine in TF32, which has 10 bits of 23",
                "Give it an FP16 engine (nst-export --precision fp16), set " + switch_name +
                    "=0, or choose --device cuda") {}
};

/// The library that is loaded at run time is older than the program.
struct BackendMissingError : Error {
    BackendMissingError(const std::string& problem, const std::string& remedy)
        : Error(Code::backend_missing, problem, remedy) {}
};

/// The back end gave up on a picture that it had accepted.
struct BackendFailedError : Error {
    BackendFailedError(const std::string& backend, const std::string& reason)
        : Error(Code::backend_failed, backend + " failed: " + reason, "Try a smaller picture with --size") {}
};

// --- pictures ---

struct PictureSizeError : Error {
    PictureSizeError(int height, int width, const std::string& expected, const std::string& remedy)
        : Error(Code::picture_size,
                "The picture is " + std::to_string(width) + "x" + std::to_string(height) +
                    " px (width x height), expected " + expected,
                remedy) {}
};

/// Memory described in a way that cannot be right; only the program itself can mend that.
struct FrameError : Error {
    FrameError(const std::string& problem, const std::string& remedy) : Error(Code::frame_invalid, problem, remedy) {}
};

struct OptionError : Error {
    OptionError(const std::string& problem, const std::string& remedy) : Error(Code::option_invalid, problem, remedy) {}
};

// --- without exceptions ---

/// What a `try_` function returns: nothing, or what the exception would have said.
class Status {
  public:
    Status() noexcept = default;
    Status(Code code, std::string message) noexcept : code_(code), message_(std::move(message)) {}

    explicit operator bool() const noexcept { return code_ == Code::ok; }
    Code code() const noexcept { return code_; }
    const std::string& message() const noexcept { return message_; }

  private:
    Code code_ = Code::ok;
    std::string message_;
};

/// Runs `work` and turns whatever it throws into a Status.
template <class Work>
Status attempt(Work&& work) noexcept {
    try {
        try {
            work();
            return {};
        } catch (const Error& error) {
            return {error.code(), error.what()};
        } catch (const std::bad_alloc&) {
            return {Code::out_of_memory, "out of memory"};
        } catch (const std::exception& error) {
            return {Code::unforeseen, error.what()};
        } catch (...) {
            return {Code::unforeseen, "unforeseen"};
        }
    } catch (...) {  // no memory for the message; this one is short enough to need none
        return {Code::out_of_memory, "out of memory"};
    }
}

}  // namespace nst
