// A CUDA without a GPU, stricter than the real one: device memory cannot be touched by the host, nothing that is queued
// happens before its stream is synchronised, and whatever CUDA leaves undefined ends the program with a sentence.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>

enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidDevice = 101 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
struct cudaDeviceProp {
    char name[256];
    int major, minor;
};
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaHostAllocDefault = 0;

namespace fake {

[[noreturn]] inline void misuse(const std::string& what) {
    std::fprintf(stderr, "fake CUDA: %s\n", what.c_str());
    std::abort();
}

struct Stream {
    int device;
    std::deque<std::function<void()>> queue;
};

struct Machine {
    std::mutex mutex;
    int devices = 2;
    std::map<const std::uint8_t*, std::size_t> device_memory, pinned_memory;
    std::map<const std::uint8_t*, int> device_of;
    int streams = 0;
    std::size_t largest = std::size_t{4} << 20;  // bytes of one allocation
    int queued = 0;                              // by enqueueV3

    static Machine& get() {
        static Machine machine;
        return machine;
    }
};

inline thread_local int current_device = 0;

inline bool within(const std::map<const std::uint8_t*, std::size_t>& blocks, const void* start, std::size_t bytes) {
    const auto* const first = static_cast<const std::uint8_t*>(start);
    auto block = blocks.upper_bound(first);
    if (block == blocks.begin()) return false;
    --block;
    return first + bytes <= block->first + block->second;
}

inline void expect_device(const void* memory, std::size_t bytes) {
    Machine& machine = Machine::get();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    if (!within(machine.device_memory, memory, bytes)) misuse("an address is not, or not wholly, in device memory");
    const auto block = --machine.device_of.upper_bound(static_cast<const std::uint8_t*>(memory));
    if (block->second != current_device) misuse("memory of another device than the current one");
}

inline void expect_pinned(const void* memory, std::size_t bytes) {
    Machine& machine = Machine::get();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    if (!within(machine.pinned_memory, memory, bytes))
        misuse("an asynchronous copy to or from memory that is not pinned");
}

inline void protect_device_memory(int protection) {
    for (const auto& [start, bytes] : Machine::get().device_memory) {
        mprotect(const_cast<std::uint8_t*>(start), bytes, protection);
    }
}

}  // namespace fake

using cudaStream_t = fake::Stream*;

inline cudaError_t cudaGetDevice(int* device) {
    if (fake::Machine::get().devices == 0) return cudaErrorInvalidDevice;
    *device = fake::current_device;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= fake::Machine::get().devices) return cudaErrorInvalidDevice;
    fake::current_device = device;
    return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory"
           : error == cudaSuccess             ? "no error"
                                              : "invalid device ordinal";
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (device >= fake::Machine::get().devices) return cudaErrorInvalidDevice;
    *properties = {"NVIDIA L4", 8, 9};
    return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    *free = fake::Machine::get().largest;
    *total = std::size_t{24} << 30;
    return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
    fake::Machine& machine = fake::Machine::get();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    if (bytes > machine.largest) return cudaErrorMemoryAllocation;
    *memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    machine.device_memory[static_cast<std::uint8_t*>(*memory)] = bytes;
    machine.device_of[static_cast<std::uint8_t*>(*memory)] = fake::current_device;
    return cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
    fake::Machine& machine = fake::Machine::get();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    if (memory == nullptr) return cudaSuccess;
    const auto block = machine.device_memory.find(static_cast<std::uint8_t*>(memory));
    if (block == machine.device_memory.end()) fake::misuse("device memory freed twice");
    munmap(memory, block->second);
    machine.device_memory.erase(block);
    machine.device_of.erase(static_cast<std::uint8_t*>(memory));
    return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
    fake::Machine& machine = fake::Machine::get();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    *memory = std::malloc(bytes);
    machine.pinned_memory[static_cast<std::uint8_t*>(*memory)] = bytes;
    return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* memory) {
    fake::Machine& machine = fake::Machine::get();
    const std::lock_guard<std::mutex> lock(machine.mutex);
    if (memory != nullptr && machine.pinned_memory.erase(static_cast<std::uint8_t*>(memory)) == 0) {
        fake::misuse("pinned memory freed twice");
    }
    std::free(memory);
    return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = new fake::Stream{fake::current_device, {}};
    ++fake::Machine::get().streams;
    return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    if (!stream->queue.empty()) fake::misuse("a stream is destroyed with work in it");
    --fake::Machine::get().streams;
    delete stream;
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const std::lock_guard<std::mutex> lock(fake::Machine::get().mutex);
    fake::protect_device_memory(PROT_READ | PROT_WRITE);
    for (; !stream->queue.empty(); stream->queue.pop_front()) stream->queue.front()();
    fake::protect_device_memory(PROT_NONE);
    return cudaSuccess;
}

inline void fake_queue(cudaStream_t stream, std::function<void()> work) {
    if (stream->device != fake::current_device) fake::misuse("a stream of another device than the current one");
    stream->queue.push_back(std::move(work));
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
    kind == cudaMemcpyHostToDevice ? fake::expect_device(to, bytes) : fake::expect_pinned(to, bytes);
    kind == cudaMemcpyHostToDevice ? fake::expect_pinned(from, bytes) : fake::expect_device(from, bytes);
    fake_queue(stream, [=] { std::memcpy(to, from, bytes); });
    return cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                                     std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    if (kind != cudaMemcpyDeviceToDevice || width > to_pitch || width > from_pitch)
        fake::misuse("a wrong copy of rows");
    fake::expect_device(to, to_pitch * (height - 1) + width);
    fake::expect_device(from, from_pitch * (height - 1) + width);
    fake_queue(stream, [=] {
        for (std::size_t y = 0; y < height; ++y) {
            std::memcpy(static_cast<char*>(to) + y * to_pitch, static_cast<const char*>(from) + y * from_pitch, width);
        }
    });
    return cudaSuccess;
}
