// Each codec turns bytes into a picture or the other way round; what is wrong with them is a CodecError's one sentence.
#pragma once

#include <stdexcept>
#include <string>

#include "picture.hpp"

namespace programs {

/// Width times height, px: twice what Pillow warns of; beyond it a header is taken for a decompression bomb.
inline constexpr long long max_pixels = 178956970;

struct CodecError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The header claims more pixels than `max_pixels`.
struct TooManyPixels : std::runtime_error {
    TooManyPixels() : std::runtime_error("too many pixels") {}
};

/// Sets a picture's size, and memory for its colours. Throws CodecError, TooManyPixels.
inline void allocate(Picture& picture, long long height, long long width) {
    if (height < 1 || width < 1) throw CodecError("it has no pixels");
    if (height > max_pixels || width > max_pixels || height * width > max_pixels) throw TooManyPixels();
    picture.height = static_cast<int>(height);
    picture.width = static_cast<int>(width);
    picture.rgb.resize(static_cast<std::size_t>(height * width) * 3);
}

Picture decode_pnm(const std::string& bytes);
std::string encode_pnm(const Picture& picture);

#ifdef NST_WITH_PNG
Picture decode_png(const std::string& bytes);
std::string encode_png(const Picture& picture);
#endif

#ifdef NST_WITH_JPEG
Picture decode_jpeg(const std::string& bytes);
std::string encode_jpeg(const Picture& picture);

/// Turns a picture as EXIF's orientation 1..8 asks.
Picture upright(Picture picture, int orientation);
#endif

}  // namespace programs
