// Picture files: PNM, and PNG and JPEG where the build found libpng and libjpeg.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nst/frame.hpp"

namespace programs {

struct Picture {
    int height = 0, width = 0;        // px
    std::vector<std::uint8_t> rgb;    // [height, width, 3]
    std::vector<std::uint8_t> alpha;  // [height, width]; empty where there is none

    nst::Frame frame() { return {rgb.data(), height, width}; }
};

/// Told apart by content, never by name; upright where EXIF says that it lies on its side.
/// Throws nst::Error: it is missing, unreadable, or of a kind that is not in this build.
Picture load_picture(const std::filesystem::path& path);

/// The format is the suffix's. Appears whole or not at all. Throws nst::Error.
void save_picture(const std::filesystem::path& path, const Picture& picture, bool overwrite);

/// Throws UsageError where `save_picture` could not write this format.
void check_suffix(const std::filesystem::path& path);

}  // namespace programs
