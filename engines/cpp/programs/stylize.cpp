// A picture in, the styled picture out.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "command.hpp"
#include "engine.hpp"
#include "picture.hpp"

namespace programs {
namespace {

namespace fs = std::filesystem;
constexpr char name[] = "stylize";

/// photo.jpg -> photo.la_muse.jpg in the current folder, as nst-infer names it.
fs::path default_target(const fs::path& source, const std::string& style) {
    return fs::u8path(nst::to_text(source.stem()) + "." + style + nst::to_text(source.extension()));
}

void check_target(const fs::path& target, bool overwrite) {
    check_suffix(target);
    std::error_code ignored;
    if (!overwrite && fs::exists(target, ignored)) {
        throw UsageError(nst::to_text(target) +
                         " exists already: replace it with --overwrite, or choose another --out");
    }
}

int style_picture(const Arguments& arguments) {
    if (arguments.positional().size() != 1) {
        throw UsageError(std::to_string(arguments.positional().size()) + " pictures given, expected one");
    }
    const fs::path source = fs::u8path(arguments.positional()[0]);
    const bool overwrite = arguments.has("--overwrite"), named = arguments.has("--out");
    fs::path target = fs::u8path(named ? arguments.required("--out") : "");
    if (named) check_target(target, overwrite);
    Picture picture = load_picture(source);
    const std::unique_ptr<nst::Stylizer> stylizer = open_engine(arguments);
    if (!named) {
        target = default_target(source, stylizer->contract().style);
        check_target(target, overwrite);
    }
    const auto started = std::chrono::steady_clock::now();
    stylizer->run(picture.frame(), picture.frame());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    save_picture(target, picture, overwrite);
    std::printf("%s: %dx%d px in %.2f s\n", nst::to_text(target).c_str(), picture.width, picture.height, seconds);
    return done;
}

int run(const std::vector<std::string>& given) {
    std::vector<Option> options = engine_options();
    options.push_back({"--out", "FILE", "where the picture goes (default: NAME.STYLE.SUFFIX in the current folder)"});
    options.push_back({"--overwrite", "", "replace a file that exists"});
    options.push_back({"--help", "", "show this and exit"});
    const Arguments arguments(given, options);
    if (arguments.has("--help")) {
        const std::string text = help("stylize --engine FILE [options] PICTURE", "Styles one picture.", options);
        std::fputs(text.c_str(), stdout);
        return done;
    }
    return style_picture(arguments);
}

}  // namespace
}  // namespace programs

int main(int argc, char** argv) {
    const std::vector<std::string> given(argv + 1, argv + argc);
    return programs::run_command(programs::name, [&given] { return programs::run(given); });
}
