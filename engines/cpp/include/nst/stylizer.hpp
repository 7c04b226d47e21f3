// The one interface that every vendor's Stylizer has: frames in host memory in, styled frames out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "nst/contract.hpp"
#include "nst/error.hpp"
#include "nst/frame.hpp"

namespace nst {

namespace detail {

/// Throws PictureSizeError where an engine of this contract does not take the size; the words are Python's.
inline void check_picture_size(const Contract& contract, int height, int width) {
    const auto& only = contract.static_size;
    if (only && (height != only->height || width != only->width)) {
        throw PictureSizeError(height, width,
                               std::to_string(only->width) + "x" + std::to_string(only->height) +
                                   " px, the one size that this engine was exported for",
                               "Resize it, or export without --static");
    }
    if (height < min_size || width < min_size) {
        const std::string least = std::to_string(min_size);
        throw PictureSizeError(height, width, "at least " + least + "x" + least + " px", "Give a larger picture");
    }
}

/// Throws FrameError where the frames of a batch contradict themselves or each other.
template <class Source, class Target>
void check_batch(const Source* images, const Target* styled, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        check_frame(images[i]);
        check_frame(styled[i]);
        const bool same = images[i].height == images[0].height && images[i].width == images[0].width &&
                          styled[i].height == images[0].height && styled[i].width == images[0].width;
        if (!same) {
            throw FrameError("Frame " + std::to_string(i) + " of a batch has another size than the first",
                             "All frames of one run, styled ones too, have one size");
        }
    }
}

}  // namespace detail

/// An opened engine. `run` may be called from several threads at once.
class Stylizer {
  public:
    virtual ~Stylizer() = default;
    Stylizer(const Stylizer&) = delete;
    Stylizer& operator=(const Stylizer&) = delete;

    /// What the engine says of itself: style, precision, checkpoint, parity, size.
    const Contract& contract() const noexcept { return contract_; }

    /// Name of what runs it, as reports print it: "openvino-cpu".
    const std::string& backend() const noexcept { return backend_; }

    /// Styles one frame. `styled` has the size of `image` and may be the same memory.
    /// Throws FrameError, PictureSizeError, BackendFailedError.
    void run(const ConstFrame& image, const Frame& styled) { run(&image, &styled, 1); }

    /// Styles `count` frames of one size as one batch, or in turns where the engine takes fewer at once. Without a copy
    /// where they lie one behind the other without gaps.
    void run(const ConstFrame* images, const Frame* styled, std::size_t count) {
        detail::check_batch(images, styled, count);
        for (std::size_t i = 0, turn = 0; i < count; i += turn) {
            turn = std::min(count - i, max_batch());
            check_size(images[i].height, images[i].width, turn);
            style(images + i, styled + i, turn);
        }
    }

    /// As `run`, but returns what it would throw.
    Status try_run(const ConstFrame& image, const Frame& styled) noexcept {
        return attempt([&] { run(image, styled); });
    }
    Status try_run(const ConstFrame* images, const Frame* styled, std::size_t count) noexcept {
        return attempt([&] { run(images, styled, count); });
    }

    /// Frames that the engine takes at once.
    virtual std::size_t max_batch() const noexcept { return std::numeric_limits<std::size_t>::max(); }

    /// Throws PictureSizeError where it does not take `count` frames of this size.
    virtual void check_size(int height, int width, [[maybe_unused]] std::size_t count = 1) const {
        detail::check_picture_size(contract_, height, width);
    }

  protected:
    Stylizer(Contract contract, std::string backend) : contract_(std::move(contract)), backend_(std::move(backend)) {}

    /// Frames that are valid and of a size that the engine takes.
    virtual void style(const ConstFrame* images, const Frame* styled, std::size_t count) = 0;

  private:
    Contract contract_;
    std::string backend_;
};

/// Opens an engine without exceptions: `std::unique_ptr<nst::openvino::Stylizer> s; try_open(s, path, options)`.
template <class Vendor, class... Arguments>
Status try_open(std::unique_ptr<Vendor>& opened, Arguments&&... arguments) noexcept {
    return attempt([&] { opened = std::make_unique<Vendor>(std::forward<Arguments>(arguments)...); });
}

/// A Stylizer over a library that wants packed memory: uint8 [N, H, W, 3].
class PackedStylizer : public Stylizer {
  protected:
    using Stylizer::Stylizer;

    virtual void infer(const std::uint8_t* images, std::uint8_t* styled, std::size_t count, int height, int width) = 0;

    void style(const ConstFrame* images, const Frame* styled, std::size_t count) final {
        const std::size_t bytes = images[0].bytes();
        const bool in_place = consecutive(styled, count), shared = overlap(images, styled, count);
        // The engine may write before it has read everything, so memory that is both is copied first.
        const bool copy_in = shared || !consecutive(images, count);
        // Not make_unique: that would fill them with zeros first.
        const std::unique_ptr<std::uint8_t[]> packed_in(copy_in ? new std::uint8_t[bytes * count] : nullptr);
        const std::unique_ptr<std::uint8_t[]> packed_out(in_place ? nullptr : new std::uint8_t[bytes * count]);
        const auto frame = [&](std::uint8_t* base, std::size_t i) {
            return Frame(base + i * bytes, images[0].height, images[0].width);
        };
        for (std::size_t i = 0; copy_in && i < count; ++i) copy_pixels(images[i], frame(packed_in.get(), i));
        infer(copy_in ? packed_in.get() : images[0].data, in_place ? styled[0].data : packed_out.get(), count,
              images[0].height, images[0].width);
        for (std::size_t i = 0; !in_place && i < count; ++i) copy_pixels(frame(packed_out.get(), i), styled[i]);
    }

  private:
    template <class AnyFrame>
    static bool consecutive(const AnyFrame* frames, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            if (!frames[i].packed() || frames[i].data != frames[0].data + i * frames[0].bytes()) return false;
        }
        return true;
    }

    static bool overlap(const ConstFrame* images, const Frame* styled, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            for (std::size_t k = 0; k < count; ++k) {
                const auto [first, last] = extent(images[i]);
                const auto [start, end] = extent(ConstFrame(styled[k]));
                if (std::less<>()(first, end) && std::less<>()(start, last)) return true;
            }
        }
        return false;
    }

    /// The lowest byte of a frame and the one behind its highest.
    static std::pair<const std::uint8_t*, const std::uint8_t*> extent(const ConstFrame& frame) {
        const std::uint8_t *top = frame.row(0), *bottom = frame.row(frame.height - 1);
        const bool upright = !std::less<>()(bottom, top);
        return {upright ? top : bottom, (upright ? bottom : top) + frame.row_bytes()};
    }
};

}  // namespace nst
