// Reading an ONNX engine: its bytes, and the contract in its metadata. The graph itself is not looked at.
#pragma once

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "nst/contract.hpp"
#include "nst/error.hpp"

namespace nst {

struct EngineFile {
    std::string bytes;
    Contract contract;
};

namespace detail {

/// A whole file. Throws EngineUnreadableError with what the system says.
inline std::string read_file(const std::filesystem::path& path) {
    errno = 0;
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    const std::streamoff length = file ? static_cast<std::streamoff>(file.tellg()) : -1;
    std::string bytes;
    if (length >= 0) {
        bytes.resize(static_cast<std::size_t>(length));
        file.seekg(0);
        file.read(bytes.data(), length);
    }
    if (!file) {
        const std::string reason = errno != 0 ? std::generic_category().message(errno) : "it cannot be read";
        throw EngineUnreadableError(path, reason);
    }
    return bytes;
}

/// Whether text is UTF-8 as the Unicode standard (table 3-7) has it.
inline bool is_utf8(std::string_view text) {
    for (std::size_t i = 0; i < text.size();) {
        const auto byte = [&](std::size_t offset) {
            return i + offset < text.size() ? static_cast<unsigned char>(text[i + offset]) : 0U;
        };
        const unsigned lead = byte(0), second = byte(1);
        const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        if ((lead >= 0x80 && lead < 0xC2) || lead > 0xF4) return false;
        const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        if (length > 1 && (second < low || second > high)) return false;
        for (std::size_t k = 2; k < length; ++k) {
            if ((byte(k) & 0xC0) != 0x80) return false;
        }
        i += length;
    }
    return true;
}

/// Walks the fields of a protobuf message; throws std::invalid_argument where it is none.
class Fields {
  public:
    explicit Fields(std::string_view message) : message_(message) {}

    /// The next length-delimited field, numbers passed over; false at the end.
    bool next(std::uint64_t& field, std::string_view& content) {
        while (at_ < message_.size()) {
            const std::uint64_t tag = varint();
            field = tag >> 3;
            const unsigned kind = tag & 7;
            if (field == 0) throw std::invalid_argument("field 0");
            if (kind == length_delimited) {
                const std::size_t length = skip(varint());
                content = message_.substr(at_ - length, length);
                return true;
            }
            if (kind == number) {
                varint();
            } else if (kind == eight_bytes || kind == four_bytes) {
                skip(kind == eight_bytes ? 8 : 4);
            } else {
                throw std::invalid_argument("wire type");
            }
        }
        return false;
    }

  private:
    static constexpr unsigned number = 0, eight_bytes = 1, length_delimited = 2, four_bytes = 5;

    std::size_t skip(std::uint64_t length) {
        if (length > message_.size() - at_) throw std::invalid_argument("cut short");
        at_ += static_cast<std::size_t>(length);
        return static_cast<std::size_t>(length);
    }

    /// A number in groups of 7 bits, lowest first; one beyond 64 bits counts as the largest.
    std::uint64_t varint() {
        std::uint64_t value = 0;
        bool beyond = false;
        for (unsigned shift = 0; at_ < message_.size(); shift += 7) {
            const auto byte = static_cast<unsigned char>(message_[at_++]);
            const std::uint64_t bits = byte & 0x7FU;
            if (shift > 63 || (shift == 63 && bits > 1)) {
                beyond = beyond || bits != 0;
            } else {
                value |= bits << shift;
            }
            if (byte < 0x80) return beyond ? std::numeric_limits<std::uint64_t>::max() : value;
        }
        throw std::invalid_argument("cut short");
    }

    std::string_view message_;
    std::size_t at_ = 0;
};

/// `metadata_props` of a serialised ModelProto. Throws std::invalid_argument: it is not protobuf, or has no graph.
inline Metadata parse_metadata(std::string_view model) {
    // Field numbers of onnx.proto: ModelProto's graph and metadata_props, StringStringEntryProto's key and value.
    constexpr std::uint64_t graph = 7, metadata_props = 14, entry_key = 1, entry_value = 2;
    Metadata metadata;
    bool has_graph = false;
    std::uint64_t field = 0;
    std::string_view content;
    for (Fields fields(model); fields.next(field, content);) {
        has_graph = has_graph || field == graph;
        if (field != metadata_props) continue;
        std::string key, value;
        std::uint64_t part = 0;
        std::string_view text;
        for (Fields entry(content); entry.next(part, text);) {
            if (!is_utf8(text)) throw std::invalid_argument("not UTF-8");
            if (part == entry_key) key = text;
            if (part == entry_value) value = text;
        }
        metadata[key] = value;
    }
    if (!has_graph) throw std::invalid_argument("no graph");
    return metadata;
}

/// How TensorRT's plans begin; only better messages depend on it.
inline bool begins_as_plan(std::string_view bytes) {
    const std::string_view magic = bytes.substr(0, 4);
    return magic == "ftrt" || magic == "ptrt" || magic == "vtrt";
}

}  // namespace detail

/// Throws EngineNotFoundError, EngineUnreadableError, NotAnEngineError, WrongKindOfEngineError.
inline EngineFile read_engine(const std::filesystem::path& path) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored)) throw EngineNotFoundError(path);
    if (path.extension() == ".plan") {
        throw WrongKindOfEngineError(path, "a plan, and this runs ONNX engines",
                                     "Give the .onnx, or choose --device tensorrt");
    }
    EngineFile engine;
    engine.bytes = detail::read_file(path);
    if (detail::begins_as_plan(engine.bytes)) {
        throw WrongKindOfEngineError(path, "a plan named as an ONNX model",
                                     "Name it .plan, with its .plan.json beside it");
    }
    try {
        engine.contract = Contract::from_metadata(detail::parse_metadata(engine.bytes));
    } catch (const ContractError& error) {
        throw NotAnEngineError(path, error.what());
    } catch (const std::invalid_argument&) {
        throw EngineUnreadableError(path,
                                    engine.bytes.empty() ? "the file is empty" : "it is damaged or not an ONNX model");
    }
    return engine;
}

}  // namespace nst
