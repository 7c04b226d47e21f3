#include <cstdint>
#include <cstdio>
#include <vector>

#include <nst/openvino.hpp>

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    try {
        nst::openvino::Stylizer stylizer(argv[1]);
        std::printf("%s on %s\n", stylizer.contract().style.c_str(), stylizer.backend().c_str());

        // A camera's frame: 480 rows of 640 RGB pixels, each row in 2048 bytes.
        const int height = 480, width = 640, stride = 2048;
        std::vector<std::uint8_t> camera(height * stride);
        for (int y = 0; y < height; ++y) {
            for (int x = 0; x < width; ++x) camera[y * stride + 3 * x + 1] = static_cast<std::uint8_t>(x * y);
        }
        std::vector<std::uint8_t> styled(height * width * 3);  // no gaps
        stylizer.run({camera.data(), height, width, stride}, {styled.data(), height, width});

        std::FILE* file = std::fopen("styled.ppm", "wb");
        std::fprintf(file, "P6\n%d %d\n255\n", width, height);
        std::fwrite(styled.data(), 1, styled.size(), file);
        std::fclose(file);
        return 0;
    } catch (const nst::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
