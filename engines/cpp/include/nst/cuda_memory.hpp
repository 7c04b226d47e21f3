// CUDA's memory, streams and current device, owned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <cuda_runtime_api.h>

#include "nst/error.hpp"

namespace nst::detail {

/// What CUDA complains of.
struct CudaFailure {
    std::string reason;
};

inline void check(cudaError_t result) {
    if (result == cudaSuccess) return;
    cudaGetLastError();  // forgets it: the next call shall not report it once more
    throw CudaFailure{std::string(cudaGetErrorString(result))};
}

/// Throws OutOfDeviceMemoryError where `need` bytes were not to be had.
inline void check_allocation(cudaError_t result, std::size_t need) {
    if (result != cudaErrorMemoryAllocation) {
        check(result);
        return;
    }
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total));
    throw OutOfDeviceMemoryError(need, free, total);
}

/// Makes a GPU the calling thread's current one, and the former one again at the end.
class CurrentDevice {
  public:
    explicit CurrentDevice(int device) {
        check(cudaGetDevice(&before_));
        check(cudaSetDevice(device));
    }
    ~CurrentDevice() { cudaSetDevice(before_); }
    CurrentDevice(const CurrentDevice&) = delete;
    CurrentDevice& operator=(const CurrentDevice&) = delete;

  private:
    int before_ = 0;
};

/// The caller's stream, or one of its own that waits for no other.
class Stream {
  public:
    explicit Stream(cudaStream_t callers) : stream_(callers), own_(callers == nullptr) {
        if (own_) check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    }
    ~Stream() {
        cudaStreamSynchronize(stream_);  // what is queued still needs the buffers that go next
        if (own_) cudaStreamDestroy(stream_);
    }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    cudaStream_t get() const { return stream_; }
    bool own() const { return own_; }

  private:
    cudaStream_t stream_ = nullptr;
    bool own_ = false;
};

enum class BufferKind { device, pinned_host };

/// Memory that grows to the largest frame seen and stays.
template <BufferKind kind>
class Buffer {
  public:
    Buffer() = default;
    ~Buffer() { release(); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    std::uint8_t* reserve(std::size_t bytes) {
        if (bytes > capacity_) {
            release();
            void* memory = nullptr;
            if constexpr (kind == BufferKind::device) {
                check_allocation(cudaMalloc(&memory, bytes), bytes);
            } else {
                check(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault));
            }
            memory_ = static_cast<std::uint8_t*>(memory);
            capacity_ = bytes;
        }
        return memory_;
    }

  private:
    void release() {
        if constexpr (kind == BufferKind::device) {
            cudaFree(memory_);
        } else {
            cudaFreeHost(memory_);
        }
        memory_ = nullptr;
        capacity_ = 0;
    }

    std::uint8_t* memory_ = nullptr;
    std::size_t capacity_ = 0;
};

using DeviceBuffer = Buffer<BufferKind::device>;
using PinnedBuffer = Buffer<BufferKind::pinned_host>;

}  // namespace nst::detail
