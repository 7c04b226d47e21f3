// What the tests ask of the headers, as commands; each prints plain lines.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "nst/openvino.hpp"
#include "nst/ort.hpp"
#include "nst/tensorrt.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::uint8_t untouched = 0xA5;  // what lies between rows before a run, and must after it

Bytes read_bytes(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    Bytes bytes(static_cast<std::size_t>(file.tellg()));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return bytes;
}

void write_bytes(const std::string& path, const Bytes& bytes) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<long>(bytes.size()));
}

void expect(bool truth, const char* what) {
    if (truth) return;
    std::fprintf(stderr, "driver: %s\n", what);
    std::exit(3);
}

/// Frames one behind the other in memory; with a negative stride each is stored from bottom to top.
template <class AnyFrame, class Byte>
std::vector<AnyFrame> frames_in(Byte* base, int count, int height, int width, std::ptrdiff_t stride) {
    std::vector<AnyFrame> frames;
    const std::ptrdiff_t each = std::abs(stride) * height;
    for (int i = 0; i < count; ++i) {
        Byte* const top = base + i * each + (stride < 0 ? each + stride : 0);
        frames.emplace_back(top, height, width, stride);
    }
    return frames;
}

struct Job {
    std::string in, out, mode;
    int count = 0, height = 0, width = 0;
    std::ptrdiff_t in_stride = 0, out_stride = 0;

    std::size_t in_bytes() const { return static_cast<std::size_t>(count * height * std::abs(in_stride)); }
    std::size_t out_bytes() const { return static_cast<std::size_t>(count * height * std::abs(out_stride)); }
};

/// Prints the code and message that `try_` gave, after `run` has thrown the same.
template <class Again>
void report(const nst::Status& status, Again&& again) {
    std::string thrown;
    try {
        if (!status) again();
    } catch (const nst::Error& error) {
        expect(error.code() == status.code(), "try_run and run have different codes");
        thrown = error.what();
    }
    expect(thrown == status.message(), "try_run and run have different messages");
    std::printf("%d %s\n", static_cast<int>(status.code()), status.message().c_str());
}

int style_on_host(nst::Stylizer& stylizer, const Job& job) {
    Bytes image = read_bytes(job.in), styled(job.out_bytes(), untouched);
    expect(image.size() == job.in_bytes(), "the input has another size");
    const bool in_place = job.mode == "in_place";
    auto in = frames_in<nst::ConstFrame>(image.data(), job.count, job.height, job.width, job.in_stride);
    auto out = frames_in<nst::Frame>(in_place ? image.data() : styled.data(), job.count, job.height, job.width,
                                     job.out_stride);
    const auto count = static_cast<std::size_t>(job.count);
    const nst::Status status =
        count == 1 ? stylizer.try_run(in[0], out[0]) : stylizer.try_run(in.data(), out.data(), count);
    report(status, [&] { stylizer.run(in.data(), out.data(), count); });
    write_bytes(job.out, in_place ? image : styled);
    return 0;
}

/// Device memory of a size, filled through pinned memory, as a caller of the library would.
std::uint8_t* to_device(const Bytes& bytes, std::size_t offset, cudaStream_t stream, std::vector<void*>& pinned) {
    void *device = nullptr, *host = nullptr;
    cudaMalloc(&device, bytes.size() + offset);
    cudaHostAlloc(&host, bytes.size(), 0);
    std::memcpy(host, bytes.data(), bytes.size());
    pinned.push_back(host);
    auto* const start = static_cast<std::uint8_t*>(device) + offset;
    cudaMemcpyAsync(start, host, bytes.size(), cudaMemcpyHostToDevice, stream);
    return start;
}

int style_on_device(const std::string& engine, const Job& job) {
    constexpr int gpu = 1;
    const std::size_t offset = job.mode == "device_odd" ? 3 : 0;  // bytes, so that the address is no multiple of 256
    cudaSetDevice(gpu);
    cudaStream_t stream = nullptr;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    Bytes styled(job.out_bytes(), untouched);
    std::vector<void*> pinned;
    std::uint8_t* const in = to_device(read_bytes(job.in), offset, stream, pinned);
    std::uint8_t* const out = job.mode == "device_in_place" ? in : to_device(styled, offset, stream, pinned);
    cudaSetDevice(0);
    {
        nst::tensorrt::Stylizer stylizer(engine, {gpu, stream});
        const auto count = static_cast<std::size_t>(job.count);
        const auto images = frames_in<nst::ConstDeviceFrame>(in, job.count, job.height, job.width, job.in_stride);
        const auto targets = frames_in<nst::DeviceFrame>(out, job.count, job.height, job.width, job.out_stride);
        report(nst::attempt([&] { stylizer.run_device(images.data(), targets.data(), count); }),
               [&] { stylizer.run_device(images.data(), targets.data(), count); });
        expect(stylizer.stream() == stream, "another stream than the caller's");
        expect(fake::current_device == 0, "the current device was changed");
        expect(!stream->queue.empty(), "the work was waited for");
    }
    cudaSetDevice(gpu);
    void* host = nullptr;
    cudaHostAlloc(&host, styled.size(), 0);
    cudaMemcpyAsync(host, out, styled.size(), cudaMemcpyDeviceToHost, stream);
    cudaStreamSynchronize(stream);
    std::memcpy(styled.data(), host, styled.size());
    write_bytes(job.out, styled);
    pinned.push_back(host);
    for (void* block : pinned) cudaFreeHost(block);
    if (out != in) cudaFree(out - offset);
    cudaFree(in - offset);
    cudaStreamDestroy(stream);
    return 0;
}

std::unique_ptr<nst::Stylizer> open(const std::string& vendor, const std::string& engine, int threads) {
    if (vendor == "openvino" || vendor == "openvino-bf16") {
        nst::openvino::Options options;
        options.threads = threads;
        options.bf16 = vendor == "openvino-bf16";
        return std::make_unique<nst::openvino::Stylizer>(engine, options);
    }
    if (vendor == "tensorrt") return std::make_unique<nst::tensorrt::Stylizer>(engine);
    nst::ort::Options options;
    options.threads = threads;
    options.device = vendor == "ort-cuda"       ? nst::ort::Device::cuda
                     : vendor == "ort-tensorrt" ? nst::ort::Device::tensorrt
                                                : nst::ort::Device::cpu;
    if (vendor == "ort-configured") {
        options.configure = [](const OrtApi& ort, OrtSessionOptions* session) {
            return ort.SetIntraOpNumThreads(session, 2);
        };
    } else if (vendor == "ort-misconfigured") {
        options.configure = [](const OrtApi& ort, OrtSessionOptions*) {
            OrtCUDAProviderOptionsV2* cuda = nullptr;
            return ort.CreateCUDAProviderOptions(&cuda);  // fails: the library is built without it
        };
    }
    return std::make_unique<nst::ort::Stylizer>(engine, options);
}

/// Four threads share one Stylizer; each must get what a single one gets.
int share(nst::Stylizer& stylizer, int height, int width) {
    const auto make = [&](int seed) {
        Bytes image(static_cast<std::size_t>(height * width * 3));
        for (std::size_t i = 0; i < image.size(); ++i)
            image[i] = static_cast<std::uint8_t>((i * 37 + i / 11) * static_cast<std::size_t>(seed + 1));
        return image;
    };
    const auto styled = [&](int seed) {
        Bytes image = make(seed), result(image.size());
        stylizer.run({image.data(), height, width}, {result.data(), height, width});
        return result;
    };
    std::vector<Bytes> alone, together(8);
    for (int i = 0; i < 8; ++i) alone.push_back(styled(i));
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (int i = t; i < 8; i += 4) together[static_cast<std::size_t>(i)] = styled(i);
        });
    }
    for (std::thread& thread : threads) thread.join();
    expect(alone == together, "threads disturb each other");
    return 0;
}

/// On one line, whatever is in it.
std::string flat(std::string text) {
    for (char& letter : text) letter = letter == '\n' ? ' ' : letter;
    return text;
}

void print(const nst::Contract& contract) {
    std::ostringstream line;
    line.precision(17);
    line << "style '" << contract.style << "' precision " << contract.precision << " sha " << contract.checkpoint_sha256
         << " version " << contract.package_version << " working " << contract.working_bytes_per_pixel;
    if (contract.static_size) line << " size " << contract.static_size->height << "x" << contract.static_size->width;
    if (contract.parity) {
        const auto& psnr = contract.parity->psnr_db;
        line << " parity " << contract.parity->max_levels << " " << contract.parity->identical << " "
             << (psnr ? std::to_string(*psnr) : "none") << " '" << contract.parity->backend << "'";
    }
    for (const double scale : contract.norm_scales) line << " " << scale;
    std::cout << flat(line.str());
}

/// For each path on stdin one line: what the file says of itself, or the error.
template <class Show>
int read_all(Show&& show) {
    for (std::string path; std::getline(std::cin, path);) {
        try {
            show(path);
            std::cout << "\n";
        } catch (const nst::Error& error) {
            std::cout << error.what() << "\n";
        }
    }
    return 0;
}

void print_plan(const std::string& path) {
    const nst::Sidecar sidecar = nst::read_plan(path).sidecar;
    print(sidecar.contract);
    std::cout << " | " << sidecar.plan_sha256 << " " << sidecar.flavor << " " << sidecar.library_version << " '"
              << sidecar.gpu_name << "'";
    for (const std::string& each : sidecar.compute_capabilities) std::cout << " " << each;
    for (const nst::Shape& shape : {sidecar.profile.min, sidecar.profile.opt, sidecar.profile.max}) {
        std::cout << " " << shape[0] << "," << shape[1] << "," << shape[2];
    }
    std::cout << " " << sidecar.portable << " " << sidecar.weights_stripped;
}

/// Every error whose words Python has too, made of the same arguments as the test makes Python's.
int print_messages() {
    const std::filesystem::path engine = "some where/a.onnx", plan = "b.plan", beside = "b.plan.json";
    const nst::Error errors[] = {
        nst::EngineNotFoundError(engine),
        nst::EngineUnreadableError(engine, "the\n reason"),
        nst::NotAnEngineError(engine, "reason"),
        nst::PrecisionUnavailableError("bf16"),
        nst::BackendFailedError("openvino-cpu", "reason"),
        nst::PictureSizeError(7, 9, "something", "Do this"),
        nst::SidecarMissingError(plan, beside),
        nst::SidecarMalformedError(beside, "reason"),
        nst::PlanMismatchError(plan, beside),
        nst::PlanElsewhereError(plan, "this", "that", "rtx"),
        nst::PlanWeightsMissingError(plan, "this", "reason"),
        nst::WrongKindOfEngineError(engine, "this", "Do that"),
        nst::GpuUnavailableError("reason"),
        nst::OutOfDeviceMemoryError(std::size_t{3} << 29, 1 << 29, std::size_t{24} << 30),
        nst::ProviderUnavailableError("provider", "reason", "Do this"),
        nst::ProviderPrecisionError("SWITCH"),
    };
    for (const nst::Error& error : errors) std::printf("%s\n", error.what());
    return 0;
}

int run(const std::vector<std::string>& words) {
    const std::string& command = words.at(0);
    if (command == "messages") return print_messages();
    if (command == "read") return read_all([](const std::string& path) { print(nst::read_engine(path).contract); });
    if (command == "plans") return read_all(print_plan);
    const std::string &vendor = words.at(1), &engine = words.at(2);
    if (command == "open") {
        std::unique_ptr<nst::Stylizer> opened;
        report(nst::attempt([&] { opened = open(vendor, engine, std::stoi(words.at(3))); }),
               [&] { open(vendor, engine, std::stoi(words.at(3))); });
        if (opened) std::printf("%s\n", opened->backend().c_str());
        return 0;
    }
    if (command == "share") return share(*open(vendor, engine, 1), std::stoi(words.at(3)), std::stoi(words.at(4)));
    Job job{words.at(3),
            words.at(4),
            words.at(5),
            std::stoi(words.at(6)),
            std::stoi(words.at(7)),
            std::stoi(words.at(8)),
            std::stol(words.at(9)),
            std::stol(words.at(10))};
    if (job.mode.compare(0, 6, "device") == 0) return style_on_device(engine, job);
    return style_on_host(*open(vendor, engine, 1), job);
}

}  // namespace

int main(int argc, char** argv) {
    const int code = run(std::vector<std::string>(argv + 1, argv + argc));
    const fake::Machine& machine = fake::Machine::get();
    expect(machine.device_memory.empty() && machine.pinned_memory.empty() && machine.streams == 0, "CUDA memory leaks");
    return code;
}
