// The part of ONNX Runtime's C API that nst/ort.hpp uses, for machines that have its library but not its headers:
// Python's wheels. The library promises that entries of OrtApi keep their places for ever, so each stands where the
// real header has it, and what is not used is a gap.
#pragma once

#include <cstddef>
#include <cstdint>

#define ORT_API_VERSION 17
#define ORT_API_CALL

struct OrtAllocator;
struct OrtCUDAProviderOptionsV2;
struct OrtEnv;
struct OrtIoBinding;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorRTProviderOptionsV2;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_ERROR = 3 };
enum OrtAllocatorType { OrtDeviceAllocator = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2 };

struct OrtApi {
    void* gap_0[2];
    const char* (*GetErrorMessage)(const OrtStatus*) noexcept;
    OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char*, OrtEnv**) noexcept;
    void* gap_4[4];
    OrtStatus* (*CreateSessionFromArray)(const OrtEnv*, const void*, size_t, const OrtSessionOptions*,
                                         OrtSession**) noexcept;
    OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*, size_t,
                      const char* const*, size_t, OrtValue**) noexcept;
    OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**) noexcept;
    void* gap_11[6];
    OrtStatus* (*DisableMemPattern)(OrtSessionOptions*) noexcept;
    void* gap_18[4];
    OrtStatus* (*SetSessionLogSeverityLevel)(OrtSessionOptions*, int) noexcept;
    void* gap_23[1];
    OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int) noexcept;
    void* gap_25[5];
    OrtStatus* (*SessionGetInputCount)(const OrtSession*, size_t*) noexcept;
    OrtStatus* (*SessionGetOutputCount)(const OrtSession*, size_t*) noexcept;
    void* gap_32[1];
    OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession*, size_t, OrtTypeInfo**) noexcept;
    OrtStatus* (*SessionGetOutputTypeInfo)(const OrtSession*, size_t, OrtTypeInfo**) noexcept;
    void* gap_35[1];
    OrtStatus* (*SessionGetInputName)(const OrtSession*, size_t, OrtAllocator*, char**) noexcept;
    OrtStatus* (*SessionGetOutputName)(const OrtSession*, size_t, OrtAllocator*, char**) noexcept;
    void* gap_38[1];
    OrtStatus* (*CreateRunOptions)(OrtRunOptions**) noexcept;
    void* gap_40[1];
    OrtStatus* (*RunOptionsSetRunLogSeverityLevel)(OrtRunOptions*, int) noexcept;
    void* gap_42[7];
    OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void*, size_t, const int64_t*, size_t,
                                                 ONNXTensorElementDataType, OrtValue**) noexcept;
    void* gap_50[5];
    OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**) noexcept;
    void* gap_56[4];
    OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*) noexcept;
    void* gap_61[7];
    OrtStatus* (*CreateMemoryInfo)(const char*, OrtAllocatorType, int, OrtMemType, OrtMemoryInfo**) noexcept;
    OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**) noexcept;
    void* gap_70[6];
    OrtStatus* (*AllocatorFree)(OrtAllocator*, void*) noexcept;
    void* gap_77[1];
    OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**) noexcept;
    void* gap_79[13];
    void (*ReleaseEnv)(OrtEnv*);
    void (*ReleaseStatus)(OrtStatus*);
    void (*ReleaseMemoryInfo)(OrtMemoryInfo*);
    void (*ReleaseSession)(OrtSession*);
    void (*ReleaseValue)(OrtValue*);
    void (*ReleaseRunOptions)(OrtRunOptions*);
    void (*ReleaseTypeInfo)(OrtTypeInfo*);
    void* gap_99[1];
    void (*ReleaseSessionOptions)(OrtSessionOptions*);
    void* gap_101[32];
    OrtStatus* (*RunWithBinding)(OrtSession*, const OrtRunOptions*, const OrtIoBinding*) noexcept;
    OrtStatus* (*CreateIoBinding)(OrtSession*, OrtIoBinding**) noexcept;
    void (*ReleaseIoBinding)(OrtIoBinding*);
    OrtStatus* (*BindInput)(OrtIoBinding*, const char*, const OrtValue*) noexcept;
    OrtStatus* (*BindOutput)(OrtIoBinding*, const char*, const OrtValue*) noexcept;
    void* gap_138[27];
    OrtStatus* (*AddRunConfigEntry)(OrtRunOptions*, const char*, const char*) noexcept;
    void* gap_166[4];
    OrtStatus* (*SessionOptionsAppendExecutionProvider_TensorRT_V2)(OrtSessionOptions*,
                                                                    const OrtTensorRTProviderOptionsV2*) noexcept;
    OrtStatus* (*CreateTensorRTProviderOptions)(OrtTensorRTProviderOptionsV2**) noexcept;
    OrtStatus* (*UpdateTensorRTProviderOptions)(OrtTensorRTProviderOptionsV2*, const char* const*, const char* const*,
                                                size_t) noexcept;
    void* gap_173[1];
    void (*ReleaseTensorRTProviderOptions)(OrtTensorRTProviderOptionsV2*);
    void* gap_175[29];
    OrtStatus* (*SessionOptionsAppendExecutionProvider_CUDA_V2)(OrtSessionOptions*,
                                                                const OrtCUDAProviderOptionsV2*) noexcept;
    OrtStatus* (*CreateCUDAProviderOptions)(OrtCUDAProviderOptionsV2**) noexcept;
    OrtStatus* (*UpdateCUDAProviderOptions)(OrtCUDAProviderOptionsV2*, const char* const*, const char* const*,
                                            size_t) noexcept;
    void* gap_207[1];
    void (*ReleaseCUDAProviderOptions)(OrtCUDAProviderOptionsV2*);
    void* gap_209[52];
    OrtStatus* (*UpdateTensorRTProviderOptionsWithValue)(OrtTensorRTProviderOptionsV2*, const char*, void*) noexcept;
    void* gap_262[1];
    OrtStatus* (*UpdateCUDAProviderOptionsWithValue)(OrtCUDAProviderOptionsV2*, const char*, void*) noexcept;
};

struct OrtApiBase {
    const OrtApi* (*GetApi)(uint32_t) noexcept;
    const char* (*GetVersionString)() noexcept;
};

extern "C" const OrtApiBase* OrtGetApiBase() noexcept;
