// What an engine promises to whoever embeds it, and how the file says so: nst_deploy/contract.py in C++.
#pragma once

#include <array>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "nst/json.hpp"

namespace nst {

inline constexpr int format_version = 1;
inline constexpr char input_name[] = "image";    // uint8 [N, H, W, 3], RGB, 0..255
inline constexpr char output_name[] = "styled";  // uint8 [N, H, W, 3], RGB, same H and W
inline constexpr int min_size = 8;               // px, of either side
inline constexpr char metadata_prefix[] = "nst.";
inline constexpr std::array<const char*, 3> precisions = {"fp32", "fp16", "int8"};

using Metadata = std::map<std::string, std::string>;

/// Height and width, px.
struct Size {
    int height = 0, width = 0;
};

/// The metadata is absent, incomplete or of an unknown version; the message says which.
struct ContractError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

/// How far an engine's pixels are from PyTorch's, over every picture and size that was compared at export.
struct Parity {
    int max_levels = 0;             // largest difference of any value, levels of 0..255
    double identical = 0;           // share of values that are equal, 0..1
    std::optional<double> psnr_db;  // of all values together; empty when all are equal
    std::string backend;            // what ran the engine
};

/// The part of the contract that differs between engines; the constants above are the same for all.
struct Contract {
    std::string style;
    std::string precision;  // of every number between the two casts (int8: of what large convolutions multiply)
    std::string checkpoint_sha256;
    std::string package_version;
    long long working_bytes_per_pixel = 0;  // estimated peak memory of a run, bytes per pixel of the batch
    std::optional<Size> static_size;        // of an engine that takes only this size
    std::optional<Parity> parity;           // empty when it was not measured
    std::vector<double> norm_scales;        // by what each convolution before an instance norm was multiplied

    /// Reads the nst.* keys of ONNX `metadata_props` or of a plan's sidecar; others are ignored.
    static Contract from_metadata(const Metadata& metadata);
};

namespace detail {

inline const std::string& entry(const Metadata& metadata, const std::string& key) {
    const auto found = metadata.find(metadata_prefix + key);
    if (found == metadata.end()) throw ContractError("its metadata lacks nst." + key);
    return found->second;
}

[[noreturn]] inline void malformed(const std::string& reason) {
    throw ContractError("its metadata is malformed: " + reason);
}

inline long long parse_whole(const std::string& text) {
    char* end = nullptr;
    errno = 0;
    const long long number = std::strtoll(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || errno != 0) malformed("'" + text + "' is not a whole number");
    return number;
}

inline std::string parse_precision(const std::string& text) {
    std::string known;
    for (const char* precision : precisions) {
        if (text == precision) return text;
        known += (known.empty() ? "" : ", ") + std::string(precision);
    }
    malformed("precision '" + text + "', expected one of " + known);
}

inline std::optional<Size> parse_static_size(const std::string& text) {
    if (text.empty()) return std::nullopt;
    const auto cross = text.find('x');
    if (cross == std::string::npos) malformed("static_size '" + text + "', expected HxW");
    const long long height = parse_whole(text.substr(0, cross)), width = parse_whole(text.substr(cross + 1));
    if (height < min_size || width < min_size || height > 1 << 20 || width > 1 << 20) {
        malformed("static_size '" + text + "', expected HxW in px");
    }
    return Size{static_cast<int>(height), static_cast<int>(width)};
}

inline json::Value parse_json(const std::string& text) {
    try {
        return json::parse(text);
    } catch (const std::invalid_argument& error) {
        malformed(error.what());
    }
}

inline std::optional<Parity> parse_parity(const std::string& text) {
    using Kind = json::Value::Kind;
    if (text.empty()) return std::nullopt;
    const json::Value value = parse_json(text);
    const auto member = [&value](const char* key, Kind kind) -> const json::Value& {
        const json::Value* found = value.kind == Kind::object ? value.find(key) : nullptr;
        if (found == nullptr || found->kind != kind) malformed(std::string("parity without ") + key);
        return *found;
    };
    Parity parity;
    parity.max_levels = static_cast<int>(member("max_levels", Kind::number).number);
    parity.identical = member("identical", Kind::number).number;
    parity.backend = member("backend", Kind::string).text;
    const json::Value* psnr = value.find("psnr_db");
    if (psnr == nullptr || psnr->kind != Kind::null) parity.psnr_db = member("psnr_db", Kind::number).number;
    if (value.keys.size() != 4) malformed("parity with more than it has");
    return parity;
}

inline std::vector<double> parse_scales(const std::string& text) {
    std::vector<double> scales;
    if (text.empty()) return scales;
    const json::Value value = parse_json(text);
    if (value.kind != json::Value::Kind::array) malformed("norm_scales are no list");
    for (const json::Value& item : value.items) {
        if (item.kind != json::Value::Kind::number) malformed("norm_scales are no numbers");
        scales.push_back(item.number);
    }
    return scales;
}

}  // namespace detail

inline Contract Contract::from_metadata(const Metadata& metadata) {
    const std::string prefix = metadata_prefix;
    const auto first = metadata.lower_bound(prefix);  // where keys with the prefix would begin
    if (first == metadata.end() || first->first.compare(0, prefix.size(), prefix) != 0) {
        throw ContractError("it carries no nst.* metadata");
    }
    const auto version = metadata.find(prefix + "format_version");
    if (version == metadata.end() || version->second != std::to_string(format_version)) {
        throw ContractError("its format version is " + (version == metadata.end() ? "missing" : version->second) +
                            ", this nst reads " + std::to_string(format_version));
    }
    Contract contract;
    contract.style = detail::entry(metadata, "style");
    contract.precision = detail::parse_precision(detail::entry(metadata, "precision"));
    contract.checkpoint_sha256 = detail::entry(metadata, "checkpoint_sha256");
    contract.package_version = detail::entry(metadata, "package_version");
    contract.working_bytes_per_pixel = detail::parse_whole(detail::entry(metadata, "working_bytes_per_pixel"));
    contract.static_size = detail::parse_static_size(detail::entry(metadata, "static_size"));
    contract.parity = detail::parse_parity(detail::entry(metadata, "parity"));
    contract.norm_scales = detail::parse_scales(detail::entry(metadata, "norm_scales"));
    return contract;
}

}  // namespace nst
