// The shapes that an engine was built for: TensorRT chooses its kernels for a range of them.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "nst/error.hpp"

namespace nst {

/// N, H, W.
using Shape = std::array<int, 3>;

/// Each of N, H and W between its `min` and `max`, fastest at `opt`.
struct Profile {
    Shape min{}, opt{}, max{};

    bool allows(const Shape& shape) const {
        for (std::size_t i = 0; i < shape.size(); ++i) {
            if (shape[i] < min[i] || shape[i] > max[i]) return false;
        }
        return true;
    }
};

namespace detail {

inline std::string range_text(const Profile& profile) {
    const auto size = [](const Shape& s) { return std::to_string(s[2]) + "x" + std::to_string(s[1]); };
    const std::string low = size(profile.min), high = size(profile.max);
    if (low == high) return low + " px, the one size that the plan was built for";
    return low + " to " + high + " px, for which the plan was built";
}

/// Throws PictureSizeError, which names the range and the flag of nst-export that widens it. More at once than the
/// profile takes are no error: they run in turns.
inline void check_in_profile(const Profile& profile, int height, int width, std::size_t count) {
    const auto most = static_cast<std::size_t>(profile.max[0]);
    const int at_once = static_cast<int>(count < most ? count : most);
    if (profile.allows({at_once, height, width})) return;
    if (profile.allows({profile.opt[0], height, width})) {
        throw PictureSizeError(height, width,
                               range_text(profile) + ", at least " + std::to_string(profile.min[0]) + " at once, got " +
                                   std::to_string(count),
                               "Give more pictures at once");
    }
    const bool above = height > profile.max[1] || width > profile.max[2];
    throw PictureSizeError(height, width, range_text(profile),
                           std::string("Resize it, or build the plan for it: nst-export --format plan ") +
                               (above ? "--max-size " : "--min-size ") + std::to_string(height) + "x" +
                               std::to_string(width));
}

}  // namespace detail

}  // namespace nst
