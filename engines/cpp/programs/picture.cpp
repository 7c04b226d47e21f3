#include "picture.hpp"

#include <cerrno>
#include <fstream>
#include <random>
#include <system_error>

#include "codecs.hpp"
#include "command.hpp"
#include "nst/engine_file.hpp"

namespace programs {
namespace {

using nst::Code;
using nst::Error;
using nst::to_text;
namespace fs = std::filesystem;

Error unreadable(const fs::path& path, const std::string& reason) {
    return {Code::unforeseen, "Cannot read " + to_text(path) + " as a picture: " + reason,
            "Fetch it anew, or convert it to PNG or JPEG first"};
}

Error unwritable(const fs::path& path, const std::string& reason) {
    return {Code::unforeseen, "Cannot write " + to_text(path) + ": " + reason,
            "Choose a place with --out that exists and that you may write to"};
}

bool starts_with(const std::string& bytes, const std::string& magic) {
    return bytes.compare(0, magic.size(), magic) == 0;
}

Picture decode(const std::string& bytes) {
    if (starts_with(bytes, "P5") || starts_with(bytes, "P6")) return decode_pnm(bytes);
#ifdef NST_WITH_PNG
    if (starts_with(bytes, "\x89PNG")) return decode_png(bytes);
#endif
#ifdef NST_WITH_JPEG
    if (starts_with(bytes, "\xFF\xD8")) return decode_jpeg(bytes);
#endif
    throw CodecError(bytes.empty() ? "the file is empty" : "it is damaged or of a kind that this build does not read");
}

std::string suffix_of(const fs::path& path) {
    std::string suffix = to_text(path.extension());
    for (char& letter : suffix) letter = static_cast<char>(letter >= 'A' && letter <= 'Z' ? letter + 32 : letter);
    return suffix;
}

std::string encode(const fs::path& path, const Picture& picture) {
    [[maybe_unused]] const std::string suffix = suffix_of(path);
#ifdef NST_WITH_PNG
    if (suffix == ".png") return encode_png(picture);
#endif
#ifdef NST_WITH_JPEG
    if (suffix == ".jpg" || suffix == ".jpeg") return encode_jpeg(picture);
#endif
    return encode_pnm(picture);
}

std::vector<std::string> known_suffixes() {
    return {
        ".ppm",
#ifdef NST_WITH_PNG
        ".png",
#endif
#ifdef NST_WITH_JPEG
        ".jpg",
        ".jpeg",
#endif
    };
}

/// Beside its target, so that the rename stays within one file system.
class PartialFile {
  public:
    explicit PartialFile(const fs::path& target) {
        path_ = target;
        path_.replace_filename("." + to_text(target.filename()) + "." + std::to_string(std::random_device()()) +
                               ".part");
    }
    ~PartialFile() {
        std::error_code ignored;
        fs::remove(path_, ignored);
    }
    PartialFile(const PartialFile&) = delete;
    PartialFile& operator=(const PartialFile&) = delete;

    const fs::path& path() const { return path_; }

  private:
    fs::path path_;
};

}  // namespace

Picture load_picture(const fs::path& path) {
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) {
        throw Error(Code::unforeseen, "No picture at " + to_text(path), "Check the path");
    }
    std::string bytes;
    try {
        bytes = nst::detail::read_file(path);
    } catch (const nst::EngineUnreadableError&) {
        throw unreadable(path, std::generic_category().message(errno));
    }
    try {
        return decode(bytes);
    } catch (const CodecError& error) {
        throw unreadable(path, error.what());
    } catch (const TooManyPixels&) {
        throw Error(
            Code::unforeseen,
            to_text(path) + " claims more than " + std::to_string(max_pixels) + " pixels, as decompression bombs do",
            "If it is genuine, reduce it with another program first");
    }
}

void check_suffix(const fs::path& path) {
    const std::string suffix = suffix_of(path);
    std::string known;
    for (const std::string& each : known_suffixes()) {
        if (suffix == each) return;
        known += (known.empty() ? "" : " ") + each;
    }
    const std::string given = suffix.empty() ? "without a suffix" : "with suffix '" + suffix + "'";
    throw UsageError("Cannot write " + to_text(path) + ": no picture format " + given +
                     " is in this build, use one of " + known);
}

void save_picture(const fs::path& path, const Picture& picture, bool overwrite) {
    std::string bytes;
    try {
        bytes = encode(path, picture);
    } catch (const CodecError& error) {
        throw unwritable(path, error.what());
    }
    const PartialFile partial(path);
    errno = 0;
    std::ofstream file(partial.path(), std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.close();
    if (!file) throw unwritable(path, std::generic_category().message(errno != 0 ? errno : EIO));
    std::error_code error;
    if (!overwrite && fs::exists(path, error)) throw unwritable(path, std::generic_category().message(EEXIST));
    fs::rename(partial.path(), path, error);
    if (error) throw unwritable(path, error.message());
}

}  // namespace programs
