// JPEG through libjpeg (libjpeg-turbo), and the orientation that cameras write beside the pixels.
#include <csetjmp>
#include <cstdio>  // jpeglib.h wants it before itself
#include <cstdlib>

#include <jpeglib.h>

#include "codecs.hpp"

namespace programs {
namespace {

constexpr int quality = 95;  // of 1..100, as nst-infer's default

/// libjpeg reports errors by a call that must not return: it jumps back to where the work began.
struct ErrorHandler {
    jpeg_error_mgr base{};  // first, so that libjpeg's pointer to it is also one to this
    std::jmp_buf back{};
    char message[JMSG_LENGTH_MAX] = "";

    jpeg_error_mgr* attach() {
        jpeg_std_error(&base);
        base.error_exit = [](j_common_ptr codec) {
            auto* const self = reinterpret_cast<ErrorHandler*>(codec->err);
            codec->err->format_message(codec, self->message);
            std::longjmp(self->back, 1);
        };
        base.emit_message = [](j_common_ptr codec, int level) {
            if (level < 0) codec->err->error_exit(codec);  // damaged data, which it would fill with grey
        };
        return &base;
    }
};

unsigned read_number(const JOCTET* bytes, std::size_t length, bool little_endian) {
    unsigned number = 0;
    for (std::size_t i = 0; i < length; ++i) {
        number = number << 8 | bytes[little_endian ? length - 1 - i : i];
    }
    return number;
}

/// The orientation 1..8 in an APP1 segment; 1 where there is none. Exif 2.3, sections 4.6.2 to 4.6.4.
int orientation_in(const JOCTET* bytes, std::size_t length) {
    constexpr std::size_t prefix = 6, header = 8, entry = 12;  // bytes
    constexpr unsigned orientation_tag = 0x0112;
    if (length < prefix + header || std::string(bytes, bytes + 4) != "Exif") return 1;
    const JOCTET* const tiff = bytes + prefix;
    const std::size_t size = length - prefix;
    const bool little = tiff[0] == 'I';
    const std::size_t directory = read_number(tiff + 4, 4, little);
    if (directory > size - 2) return 1;
    const std::size_t entries = read_number(tiff + directory, 2, little);
    for (std::size_t i = 0; i < entries && directory + 2 + (i + 1) * entry <= size; ++i) {
        const JOCTET* const at = tiff + directory + 2 + i * entry;
        if (read_number(at, 2, little) == orientation_tag) {
            const unsigned value = read_number(at + 8, 2, little);
            return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
        }
    }
    return 1;
}

int orientation_of(const jpeg_decompress_struct& codec) {
    for (jpeg_saved_marker_ptr marker = codec.marker_list; marker != nullptr; marker = marker->next) {
        const int found = orientation_in(marker->data, marker->data_length);
        if (found != 1) return found;
    }
    return 1;
}

/// The part that libjpeg may jump out of: it owns nothing that would have to be freed.
bool read_header(jpeg_decompress_struct& codec, ErrorHandler& errors, const std::string& bytes) {
    if (setjmp(errors.back) != 0) return false;
    jpeg_create_decompress(&codec);
    jpeg_mem_src(&codec, reinterpret_cast<const unsigned char*>(bytes.data()),
                 static_cast<unsigned long>(bytes.size()));
    jpeg_save_markers(&codec, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&codec, TRUE);
    return true;
}

bool read_pixels(jpeg_decompress_struct& codec, ErrorHandler& errors, std::uint8_t* rgb) {
    if (setjmp(errors.back) != 0) return false;
    codec.out_color_space = JCS_RGB;
    jpeg_start_decompress(&codec);
    while (codec.output_scanline < codec.output_height) {
        JSAMPROW row = rgb + std::size_t{3} * codec.output_width * codec.output_scanline;
        jpeg_read_scanlines(&codec, &row, 1);
    }
    jpeg_finish_decompress(&codec);
    return true;
}

bool write_pixels(jpeg_compress_struct& codec, ErrorHandler& errors, const Picture& picture, unsigned char** bytes,
                  unsigned long* length) {
    if (setjmp(errors.back) != 0) return false;
    jpeg_create_compress(&codec);
    jpeg_mem_dest(&codec, bytes, length);
    codec.image_width = static_cast<JDIMENSION>(picture.width);
    codec.image_height = static_cast<JDIMENSION>(picture.height);
    codec.input_components = 3;
    codec.in_color_space = JCS_RGB;
    jpeg_set_defaults(&codec);
    jpeg_set_quality(&codec, quality, TRUE);
    codec.comp_info[0].h_samp_factor = codec.comp_info[0].v_samp_factor =
        1;  // 4:4:4: brush strokes are fine in colour, too
    jpeg_start_compress(&codec, TRUE);
    while (codec.next_scanline < codec.image_height) {
        JSAMPROW row =
            const_cast<JSAMPROW>(picture.rgb.data()) + std::size_t{3} * codec.image_width * codec.next_scanline;
        jpeg_write_scanlines(&codec, &row, 1);
    }
    jpeg_finish_compress(&codec);
    return true;
}

/// Frees a codec on every way out.
template <class Codec, void (*Destroy)(Codec*)>
struct Owner {
    Codec codec{};

    ~Owner() { Destroy(&codec); }
};

}  // namespace

Picture decode_jpeg(const std::string& bytes) {
    ErrorHandler errors;
    Owner<jpeg_decompress_struct, jpeg_destroy_decompress> owner;
    owner.codec.err = errors.attach();
    if (!read_header(owner.codec, errors, bytes)) throw CodecError(errors.message);
    if (owner.codec.jpeg_color_space == JCS_CMYK || owner.codec.jpeg_color_space == JCS_YCCK) {
        throw CodecError("its colours are those of print (CMYK)");
    }
    Picture picture;
    allocate(picture, owner.codec.image_height, owner.codec.image_width);
    const int orientation = orientation_of(owner.codec);  // now: at the end of the pixels libjpeg lets go of it
    if (!read_pixels(owner.codec, errors, picture.rgb.data())) throw CodecError(errors.message);
    return upright(std::move(picture), orientation);
}

std::string encode_jpeg(const Picture& picture) {
    ErrorHandler errors;
    Owner<jpeg_compress_struct, jpeg_destroy_compress> owner;
    owner.codec.err = errors.attach();
    unsigned char* encoded = nullptr;
    unsigned long length = 0;
    const bool written = write_pixels(owner.codec, errors, picture, &encoded, &length);
    const std::string bytes = written ? std::string(encoded, encoded + length) : "";
    std::free(encoded);
    if (!written) throw CodecError(errors.message);
    return bytes;
}

Picture upright(Picture picture, int orientation) {
    if (orientation == 1) return picture;
    const bool transposed = orientation >= 5,
               mirrored = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    const bool flipped = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    Picture turned;
    allocate(turned, transposed ? picture.width : picture.height, transposed ? picture.height : picture.width);
    for (int y = 0; y < turned.height; ++y) {
        for (int x = 0; x < turned.width; ++x) {
            int row = transposed ? x : y, column = transposed ? y : x;  // where the pixel lies in the file
            if (flipped) row = picture.height - 1 - row;
            if (mirrored) column = picture.width - 1 - column;
            const std::uint8_t* const from = picture.frame().row(row) + 3 * column;
            std::copy(from, from + 3, turned.frame().row(y) + 3 * x);
        }
    }
    return turned;
}

}  // namespace programs
