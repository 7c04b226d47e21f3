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

/// Throws PictureSizeError, which names the range and the flags of nst-export that widen it.
inline void check_in_profile(const Profile& profile, int height, int width, std::size_t count) {
    const int batch = count > 1U << 30 ? 1 << 30 : static_cast<int>(count);
    if (profile.allows({batch, height, width})) return;
    const auto size = [](const Shape& s) { return std::to_string(s[2]) + "x" + std::to_string(s[1]); };
    if (profile.allows({profile.opt[0], height, width})) {
        throw PictureSizeError(height, width,
                               "at most " + std::to_string(profile.max[0]) + " at once, " + std::to_string(count) +
                                   " given",
                               "Give fewer, or build the plan again with a larger --max-batch");
    }
    throw PictureSizeError(height, width, size(profile.min) + " to " + size(profile.max) + ", which the plan was built for",
                           "Resize it, or build the plan again with another --min-size or --max-size");
}

}  // namespace detail

}  // namespace nst
