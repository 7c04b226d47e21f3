// PNG through libpng's simplified interface.
#include <png.h>

#include "codecs.hpp"

namespace programs {
namespace {

/// libpng's handle; frees what it holds on every way out.
struct Handle {
    png_image image{};

    Handle() { image.version = PNG_IMAGE_VERSION; }
    ~Handle() { png_image_free(&image); }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
};

constexpr std::size_t rgba = 4;  // bytes a pixel

}  // namespace

Picture decode_png(const std::string& bytes) {
    Handle png;
    if (png_image_begin_read_from_memory(&png.image, bytes.data(), bytes.size()) == 0)
        throw CodecError(png.image.message);
    png.image.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;  // 16 bits are more of the same, not linear light
    const bool alpha = (png.image.format & PNG_FORMAT_FLAG_ALPHA) != 0;
    Picture picture;
    allocate(picture, png.image.height, png.image.width);
    const std::size_t pixels = picture.rgb.size() / 3;
    png.image.format = alpha ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
    std::vector<std::uint8_t> mixed(alpha ? rgba * pixels : 0);
    void* const target = alpha ? mixed.data() : picture.rgb.data();
    if (png_image_finish_read(&png.image, nullptr, target, 0, nullptr) == 0) throw CodecError(png.image.message);
    if (alpha) picture.alpha.resize(pixels);
    for (std::size_t i = 0; alpha && i < pixels; ++i) {
        for (std::size_t c = 0; c < 3; ++c) picture.rgb[3 * i + c] = mixed[rgba * i + c];
        picture.alpha[i] = mixed[rgba * i + 3];
    }
    return picture;
}

std::string encode_png(const Picture& picture) {
    const bool alpha = !picture.alpha.empty();
    std::vector<std::uint8_t> mixed;
    for (std::size_t i = 0; alpha && i < picture.alpha.size(); ++i) {
        mixed.insert(mixed.end(), picture.rgb.begin() + static_cast<std::ptrdiff_t>(3 * i),
                     picture.rgb.begin() + static_cast<std::ptrdiff_t>(3 * i + 3));
        mixed.push_back(picture.alpha[i]);
    }
    Handle png;
    png.image.height = static_cast<png_uint_32>(picture.height);
    png.image.width = static_cast<png_uint_32>(picture.width);
    png.image.format = alpha ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
    const void* const pixels = alpha ? mixed.data() : picture.rgb.data();
    png_alloc_size_t length = PNG_IMAGE_PNG_SIZE_MAX(png.image);
    std::string bytes(length, '\0');
    if (png_image_write_to_memory(&png.image, bytes.data(), &length, 0, pixels, 0, nullptr) == 0) {
        throw CodecError(png.image.message);
    }
    bytes.resize(length);
    return bytes;
}

}  // namespace programs
