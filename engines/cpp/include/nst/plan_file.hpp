// Reading a TensorRT plan and the NAME.plan.json beside it, which says what it takes and what can run it.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "nst/contract.hpp"
#include "nst/engine_file.hpp"
#include "nst/error.hpp"
#include "nst/json.hpp"
#include "nst/profile.hpp"
#include "nst/sha256.hpp"

namespace nst {

/// Everything that must be known of a plan before it is deserialised.
struct Sidecar {
    Contract contract;
    std::string plan_sha256;                        // of the plan's bytes, hex
    std::string flavor;                             // the library that built it: "tensorrt" or "rtx"
    std::string library_version;                    // of that library: "10.13.3.9"
    std::string gpu_name;                           // it was built on; empty where there was none
    std::vector<std::string> compute_capabilities;  // it runs on ("8.9"); empty: those like the one it was built on
    Profile profile;
    bool portable = false;          // also for other GPUs and later versions of the library
    bool weights_stripped = false;  // it holds none: they must be refitted before it can run

    /// Throws ContractError, which says what is missing or malformed; keys that it does not know are ignored.
    static Sidecar from_json(const std::string& text);
};

struct PlanFile {
    std::string bytes;
    Sidecar sidecar;
};

/// la_muse.plan -> la_muse.plan.json
inline std::filesystem::path sidecar_path(std::filesystem::path plan) { return plan += ".json"; }

namespace detail {

/// Typed access to the members of a JSON object.
class Members {
  public:
    using Kind = json::Value::Kind;

    explicit Members(const json::Value& object) : object_(object) {}

    const json::Value& get(const std::string& key, Kind kind) const {
        const json::Value* found = object_.find(key);
        if (found == nullptr) throw ContractError("it lacks " + key);
        if (found->kind != kind) throw ContractError(key + " is of the wrong type");
        return *found;
    }

    std::string text(const std::string& key) const { return get(key, Kind::string).text; }
    bool boolean(const std::string& key) const { return get(key, Kind::boolean).boolean; }

    std::string text_or_null(const std::string& key) const {
        const json::Value* found = object_.find(key);
        return found != nullptr && found->kind == Kind::null ? "" : text(key);
    }

    std::vector<std::string> texts(const std::string& key) const {
        std::vector<std::string> all;
        for (const json::Value& item : get(key, Kind::array).items) {
            if (item.kind != Kind::string) throw ContractError(key + " holds something other than text");
            all.push_back(item.text);
        }
        return all;
    }

    Shape shape(const std::string& key) const {
        constexpr double most = 1 << 30;
        const json::Value& list = get(key, Kind::array);
        Shape sides{};
        if (list.items.size() != sides.size()) throw ContractError(key + " is malformed, expected [N, H, W]");
        for (std::size_t i = 0; i < sides.size(); ++i) {
            const json::Value& item = list.items[i];
            if (!item.whole || item.number < 1 || item.number > most) {
                throw ContractError(key + " is malformed, expected [N, H, W]");
            }
            sides[i] = static_cast<int>(item.number);
        }
        return sides;
    }

  private:
    const json::Value& object_;
};

inline bool is_onnx(const std::string& bytes) {
    try {
        parse_metadata(bytes);
        return !begins_as_plan(bytes);
    } catch (const std::invalid_argument&) {
        return false;
    }
}

inline void check_profile(const Sidecar& sidecar) {
    const Profile& profile = sidecar.profile;
    for (std::size_t i = 0; i < profile.min.size(); ++i) {
        if (profile.min[i] > profile.opt[i] || profile.opt[i] > profile.max[i]) {
            throw ContractError("its profile is out of order, expected 1 <= min <= opt <= max");
        }
    }
    const auto& size = sidecar.contract.static_size;
    const auto is_size = [&size](const Shape& s) { return s[1] == size->height && s[2] == size->width; };
    if (size && !(is_size(profile.min) && is_size(profile.max))) {
        throw ContractError("nst.static_size is " + std::to_string(size->height) + "x" + std::to_string(size->width) +
                            ", its profile has other sizes");
    }
}

}  // namespace detail

inline Sidecar Sidecar::from_json(const std::string& text) {
    json::Value entries;
    try {
        entries = json::parse(text);
    } catch (const std::invalid_argument& error) {
        throw ContractError(error.what());
    }
    if (entries.kind != json::Value::Kind::object) throw ContractError("it holds no JSON object");
    Metadata metadata;
    for (std::size_t i = 0; i < entries.keys.size(); ++i) {
        if (entries.items[i].kind == json::Value::Kind::string) metadata[entries.keys[i]] = entries.items[i].text;
    }
    const detail::Members members(entries);
    Sidecar sidecar;
    sidecar.contract = Contract::from_metadata(metadata);
    sidecar.plan_sha256 = members.text("plan_sha256");
    sidecar.flavor = members.text("flavor");
    if (sidecar.flavor != "tensorrt" && sidecar.flavor != "rtx") {
        throw ContractError("flavor is '" + sidecar.flavor + "', expected one of tensorrt, rtx");
    }
    sidecar.library_version = members.text("library_version");
    sidecar.gpu_name = members.text_or_null("gpu_name");
    sidecar.compute_capabilities = members.texts("compute_capabilities");
    sidecar.profile = {members.shape("profile_min"), members.shape("profile_opt"), members.shape("profile_max")};
    sidecar.portable = members.boolean("portable");
    sidecar.weights_stripped = members.boolean("weights_stripped");
    detail::check_profile(sidecar);
    return sidecar;
}

/// A plan's bytes and its sidecar, which belong together.
/// Throws EngineNotFoundError, EngineUnreadableError, SidecarMissingError, SidecarMalformedError, PlanMismatchError,
/// WrongKindOfEngineError.
inline PlanFile read_plan(const std::filesystem::path& path) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored)) throw EngineNotFoundError(path);
    const std::filesystem::path beside = sidecar_path(path);
    PlanFile plan;
    plan.bytes = detail::read_file(path);
    if (detail::is_onnx(plan.bytes))
        throw WrongKindOfEngineError(path, "an ONNX model named as a plan", "Name it .onnx");
    if (!std::filesystem::is_regular_file(beside, ignored)) throw SidecarMissingError(path, beside);
    try {
        plan.sidecar = Sidecar::from_json(detail::read_file(beside));
    } catch (const ContractError& error) {
        throw SidecarMalformedError(beside, error.what());
    }
    if (detail::Sha256::hex(plan.bytes) != plan.sidecar.plan_sha256) throw PlanMismatchError(path, beside);
    return plan;
}

}  // namespace nst
