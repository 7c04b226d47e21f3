// Raw RGB frames from stdin, styled, to stdout. Reading, styling and writing overlap.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "channel.hpp"
#include "command.hpp"
#include "engine.hpp"
#include "signals.hpp"

namespace programs {
namespace {

constexpr char name[] = "stream";
constexpr int max_side = 1 << 15;                   // px
constexpr int buffers = 3;                          // of each kind: one is filled, one waits, one is emptied
constexpr auto patience = std::chrono::seconds(2);  // for the frame that is being written when a signal arrives

using Buffer = std::vector<std::uint8_t>;
using Clock = std::chrono::steady_clock;

nst::Size parse_size(const std::string& text) {
    const std::size_t cross = text.find('x');
    if (cross == std::string::npos) throw UsageError("--size: '" + text + "' given, expected HxW, such as 720x1280");
    return {Arguments::parse_number(text.substr(0, cross), "--size, the height", 1, max_side),
            Arguments::parse_number(text.substr(cross + 1), "--size, the width", 1, max_side)};
}

/// Three threads and the buffers that go round between them.
class Pipeline {
  public:
    Pipeline(nst::Stylizer& stylizer, nst::Size size) : stylizer_(stylizer), size_(size) {
        const auto bytes = nst::Frame(nullptr, size.height, size.width).bytes();
        for (int i = 0; i < buffers; ++i) {
            free_images_.push(Buffer(bytes));
            free_styled_.push(Buffer(bytes));
        }
    }

    /// Until the input ends or something fails. Returns the number of frames that were written whole.
    long long run() {
        std::thread reader([this] { read(); }), styler([this] { style(); });
        write();
        if (!failure().empty()) {
            // The reader may wait for input that never comes; the process ends without it.
            reader.detach();
            styler.detach();
            return written_;
        }
        reader.join();
        styler.join();
        return written_;
    }

    /// One line; empty where all went well.
    std::string failure() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return failure_;
    }

    /// Begins no further frame, and waits a little for the one that is being written.
    void stop() {
        stopped_ = true;
        std::unique_lock<std::mutex> lock(mutex_);
        idle_.wait_for(lock, patience, [this] { return !writing_; });
    }

  private:
    void read() {
        while (std::optional<Buffer> image = free_images_.pop()) {
            const std::size_t got = std::fread(image->data(), 1, image->size(), stdin);
            if (got == image->size()) {
                images_.push(std::move(*image));
                ++read_;
                continue;
            }
            if (std::ferror(stdin) != 0) {
                fail("Cannot read the input: " + std::generic_category().message(errno) + ". Check what it comes from");
            } else if (got > 0) {
                fail("The input ends " + std::to_string(got) + " bytes into frame " + std::to_string(read_ + 1) +
                     ", expected frames of " + std::to_string(image->size()) +
                     " bytes. Check that it is rgb24 and --size its " + "height and width");
            } else if (read_ == 0) {
                fail("No frame arrived on stdin. Check the program that should send it");
            }
            break;
        }
        images_.close();
    }

    void style() {
        while (std::optional<Buffer> image = images_.pop()) {
            std::optional<Buffer> styled = free_styled_.pop();
            if (!styled) break;
            const nst::Status status = stylizer_.try_run({image->data(), size_.height, size_.width},
                                                         {styled->data(), size_.height, size_.width});
            if (!status) {
                fail(status.message());
                break;
            }
            styled_.push(std::move(*styled));
            free_images_.push(std::move(*image));
        }
        styled_.close();
    }

    void write() {
        while (std::optional<Buffer> styled = styled_.pop()) {
            if (!begin_writing()) return;
            const bool whole = std::fwrite(styled->data(), 1, styled->size(), stdout) == styled->size();
            const int error = errno;
            end_writing(whole);
            if (!whole) {
                const std::string frames = std::to_string(written_) + (written_ == 1 ? " frame" : " frames");
                fail(error == EPIPE
                         ? "The reader of the output has left after " + frames + ". Check that program's messages"
                         : "Cannot write the output: " + std::generic_category().message(error) +
                               ". Check the place that it goes to");
                return;
            }
            free_styled_.push(std::move(*styled));
        }
    }

    bool begin_writing() {
        const std::lock_guard<std::mutex> lock(mutex_);
        writing_ = !stopped_;
        return writing_;
    }

    void end_writing(bool whole) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            writing_ = false;
            written_ += whole ? 1 : 0;
        }
        idle_.notify_all();
    }

    /// The first failure is the one that is told.
    void fail(const std::string& message) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (failure_.empty()) failure_ = message;
    }

    nst::Stylizer& stylizer_;
    const nst::Size size_;
    Channel<Buffer> free_images_, images_, free_styled_, styled_;
    std::mutex mutex_;
    std::condition_variable idle_;
    std::string failure_;
    bool writing_ = false;
    long long read_ = 0, written_ = 0;
    std::atomic<bool> stopped_{false};
};

/// The pipeline that a signal stops, if there is one at that moment.
struct Running {
    std::mutex mutex;
    Pipeline* pipeline = nullptr;

    void set(Pipeline* now) {
        const std::lock_guard<std::mutex> lock(mutex);
        pipeline = now;
    }
};

/// Ends at once, whatever other threads still do.
[[noreturn]] void end_process(int code) {
    std::fflush(stderr);
    std::_Exit(code);
}

int stream_frames(const Arguments& arguments) {
    if (!arguments.positional().empty()) {
        throw UsageError("'" + arguments.positional()[0] + "' given, expected frames on stdin and no file");
    }
    const nst::Size size = parse_size(arguments.required("--size"));
    if (is_terminal(stdin) || is_terminal(stdout)) {
        throw UsageError("a terminal is no film: frames are read from stdin and written to stdout");
    }
    const auto running = std::make_shared<Running>();
    on_signal([running](int number) {
        const std::lock_guard<std::mutex> lock(running->mutex);  // kept to the end, which is near
        if (running->pipeline != nullptr) running->pipeline->stop();
        complain(name, "interrupted; what was finished is kept");
        end_process(signalled + number);
    });
    const std::unique_ptr<nst::Stylizer> stylizer = open_engine(arguments);
    stylizer->check_size(size.height, size.width);
    Pipeline pipeline(*stylizer, size);
    running->set(&pipeline);
    const auto started = Clock::now();
    const long long frames = pipeline.run();
    running->set(nullptr);
    const double seconds = std::chrono::duration<double>(Clock::now() - started).count();
    if (const std::string failure = pipeline.failure(); !failure.empty()) {
        complain(name, failure);
        end_process(failed);
    }
    if (arguments.has("--verbose")) {
        std::fprintf(stderr, "%s: %lld frames of %dx%d px (width x height) in %.2f s, %.2f frames/s, on %s\n", name,
                     frames, size.width, size.height, seconds, static_cast<double>(frames) / seconds,
                     stylizer->backend().c_str());
    }
    return done;
}

int run(const std::vector<std::string>& given) {
    std::vector<Option> options = engine_options();
    options.push_back({"--size", "HxW", "height and width of the frames, px, as in nst-export (required)"});
    options.push_back({"--verbose", "", "say at the end how many frames were styled, and how fast"});
    options.push_back({"--help", "", "show this and exit"});
    const Arguments arguments(given, options);
    if (arguments.has("--help")) {
        const std::string text =
            help("ffmpeg ... | stream --engine FILE --size HxW [options] | ffmpeg ...",
                 "Styles raw frames (rgb24: 3 bytes a pixel, no gaps) from stdin to stdout.", options);
        std::fputs(text.c_str(), stdout);
        return done;
    }
    return stream_frames(arguments);
}

}  // namespace
}  // namespace programs

int main(int argc, char** argv) {
    programs::prepare_streams();
    std::setvbuf(stdin, nullptr, _IONBF, 0);  // frames go straight to and from the buffers that are styled
    std::setvbuf(stdout, nullptr, _IONBF, 0);
    const std::vector<std::string> given(argv + 1, argv + argc);
    return programs::run_command(programs::name, [&given] { return programs::run(given); });
}
