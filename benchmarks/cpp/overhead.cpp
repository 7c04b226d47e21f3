// Seconds per frame of nst::openvino::Stylizer::run and of a bare infer() on the same compiled model, in turns:
// overhead ENGINE HEIGHT WIDTH ROUNDS -> one line a round: bare, run, run with a gap behind each row.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <nst/openvino.hpp>

namespace {

template <class Work>
double seconds(Work&& work) {
    const auto started = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

}  // namespace

int main(int, char** argv) {
    const int height = std::stoi(argv[2]), width = std::stoi(argv[3]), rounds = std::stoi(argv[4]);
    const int stride = 3 * width + 64;
    nst::openvino::Stylizer stylizer(argv[1]);
    std::vector<std::uint8_t> image(static_cast<std::size_t>(stride * height)), styled(image.size());
    for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<std::uint8_t>(i * 2654435761U >> 24);

    // The least that can be done: one request, whose tensors were set once.
    const ov::Shape shape = {1, static_cast<std::size_t>(height), static_cast<std::size_t>(width), 3};
    ov::InferRequest request = stylizer.compiled().create_infer_request();
    request.set_input_tensor(ov::Tensor(ov::element::u8, shape, image.data()));
    request.set_output_tensor(ov::Tensor(ov::element::u8, shape, styled.data()));

    for (int round = -1; round < rounds; ++round) {  // the first warms up
        const double bare = seconds([&] { request.infer(); });
        const double run =
            seconds([&] { stylizer.run({image.data(), height, width}, {styled.data(), height, width}); });
        const double gaps = seconds(
            [&] { stylizer.run({image.data(), height, width, stride}, {styled.data(), height, width, stride}); });
        if (round >= 0) std::printf("%.6f %.6f %.6f\n", bare, run, gaps);
    }
}
