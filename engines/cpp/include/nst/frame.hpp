// Pictures in the caller's memory, on the host or on a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "nst/error.hpp"

namespace nst {

inline constexpr int channels = 3;  // red, green, blue: one byte each, 0..255

/// Where a frame's bytes are; frames of one cannot be taken for those of the other.
enum class Memory { host, device };

/// Rows of RGB pixels in memory that stays the caller's.
///
/// `stride` is the distance from the start of one row to that of the next, bytes: at least 3 * width, or below
/// -3 * width for pictures that are stored from bottom to top (`data` is then the top row, the last in memory).
template <class Byte, Memory memory = Memory::host>
struct BasicFrame {
    static_assert(std::is_same_v<std::remove_const_t<Byte>, std::uint8_t>);

    Byte* data = nullptr;
    int height = 0;  // px
    int width = 0;   // px
    std::ptrdiff_t stride = 0;

    BasicFrame() = default;
    BasicFrame(Byte* pixels, int rows, int columns)  // without gaps between the rows
        : BasicFrame(pixels, rows, columns, std::ptrdiff_t{channels} * columns) {}
    BasicFrame(Byte* pixels, int rows, int columns, std::ptrdiff_t bytes_per_row)
        : data(pixels), height(rows), width(columns), stride(bytes_per_row) {}

    /// A frame that may be written to is also one that may be read.
    template <class Other, class = std::enable_if_t<std::is_same_v<const Other, Byte>>>
    BasicFrame(const BasicFrame<Other, memory>& other)
        : BasicFrame(other.data, other.height, other.width, other.stride) {}

    Byte* row(int y) const { return data + y * stride; }
    std::size_t row_bytes() const { return std::size_t{channels} * static_cast<std::size_t>(width); }
    std::size_t bytes() const { return row_bytes() * static_cast<std::size_t>(height); }
    bool packed() const { return stride == static_cast<std::ptrdiff_t>(row_bytes()); }
};

using Frame = BasicFrame<std::uint8_t>;
using ConstFrame = BasicFrame<const std::uint8_t>;
using DeviceFrame = BasicFrame<std::uint8_t, Memory::device>;  // a GPU's memory: an address that CUDA gave
using ConstDeviceFrame = BasicFrame<const std::uint8_t, Memory::device>;

/// Copies the pixels of one frame to another of the same size.
inline void copy_pixels(const ConstFrame& from, const Frame& to) {
    if (from.packed() && to.packed()) {
        std::memcpy(to.data, from.data, from.bytes());
        return;
    }
    for (int y = 0; y < from.height; ++y) std::memcpy(to.row(y), from.row(y), from.row_bytes());
}

/// Throws FrameError where the description contradicts itself; the pixels are not looked at.
template <class AnyFrame>
void check_frame(const AnyFrame& frame) {
    if (frame.height < 1 || frame.width < 1) {
        throw FrameError("A frame is " + std::to_string(frame.height) + " rows of " + std::to_string(frame.width) +
                             " px, expected at least one of each",
                         "Give height and width in pixels");
    }
    if (frame.data == nullptr) {
        throw FrameError("A frame has no memory", "Give the address of its top row");
    }
    const std::ptrdiff_t least = static_cast<std::ptrdiff_t>(frame.row_bytes()), given = frame.stride;
    if (-least < given && given < least) {
        throw FrameError("A frame's rows are " + std::to_string(given) + " bytes apart, expected at least " +
                             std::to_string(least) + " for " + std::to_string(frame.width) + " px of 3 bytes",
                         "Give the stride in bytes");
    }
}

}  // namespace nst
