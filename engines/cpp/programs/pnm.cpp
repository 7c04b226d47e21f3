// Binary PGM and PPM (P5, P6), one or two bytes a value: read, and PPM written.
#include "codecs.hpp"

namespace programs {
namespace {

class Header {
  public:
    explicit Header(const std::string& bytes) : bytes_(bytes) {}

    /// The next number, behind white space and comments.
    long long number() {
        skip_space();
        long long value = 0;
        const std::size_t first = at_;
        for (; at_ < bytes_.size() && bytes_[at_] >= '0' && bytes_[at_] <= '9'; ++at_) {
            value = value * 10 + (bytes_[at_] - '0');
            if (value > max_pixels) throw TooManyPixels();
        }
        if (at_ == first) throw CodecError("its header is damaged");
        return value;
    }

    /// One white space stands between the header and the pixels.
    std::size_t end() const { return at_ + 1; }

  private:
    static constexpr std::size_t magic = 2;

    void skip_space() {
        const std::string space = " \t\r\n\v\f";
        while (at_ < bytes_.size() && (bytes_[at_] == '#' || space.find(bytes_[at_]) != std::string::npos)) {
            const bool comment = bytes_[at_] == '#';
            do {
                ++at_;
            } while (comment && at_ < bytes_.size() && bytes_[at_] != '\n');
        }
    }

    const std::string& bytes_;
    std::size_t at_ = magic;
};

}  // namespace

Picture decode_pnm(const std::string& bytes) {
    const bool color = bytes[1] == '6';
    Header header(bytes);
    const long long width = header.number(), height = header.number(), most = header.number();
    if (most < 1 || most > 65535)
        throw CodecError("its largest value is " + std::to_string(most) + ", expected 1..65535");
    Picture picture;
    allocate(picture, height, width);
    const std::size_t each = most > 255 ? 2 : 1, values = picture.rgb.size() / (color ? 1 : 3);
    if (header.end() > bytes.size() || bytes.size() - header.end() < values * each) throw CodecError("it is cut short");
    const auto byte = [&bytes, at = header.end()](std::size_t i) { return static_cast<unsigned char>(bytes[at + i]); };
    const auto limit = static_cast<unsigned>(most);
    for (std::size_t i = 0; i < values; ++i) {
        const unsigned raw = each == 1 ? byte(i) : static_cast<unsigned>(byte(2 * i)) << 8 | byte(2 * i + 1);
        const auto value = static_cast<std::uint8_t>(((raw < limit ? raw : limit) * 255 + limit / 2) / limit);
        if (color) {
            picture.rgb[i] = value;
        } else {
            picture.rgb[3 * i] = picture.rgb[3 * i + 1] = picture.rgb[3 * i + 2] = value;
        }
    }
    return picture;
}

std::string encode_pnm(const Picture& picture) {
    std::string bytes = "P6\n" + std::to_string(picture.width) + " " + std::to_string(picture.height) + "\n255\n";
    bytes.append(picture.rgb.begin(), picture.rgb.end());
    return bytes;
}

}  // namespace programs
