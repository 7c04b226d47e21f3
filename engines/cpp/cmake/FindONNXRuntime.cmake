# ONNX Runtime's C API: the target ONNXRuntime::ONNXRuntime, and ONNXRuntime_VERSION_MINOR of its headers.
# Its release archives, Debian's package and a build's own tree are found through ONNXRuntime_ROOT.

find_path(ONNXRuntime_INCLUDE_DIR onnxruntime_c_api.h
  PATH_SUFFIXES include include/onnxruntime onnxruntime include/onnxruntime/core/session onnxruntime/core/session)
find_library(ONNXRuntime_LIBRARY NAMES onnxruntime PATH_SUFFIXES lib lib64)

if(ONNXRuntime_INCLUDE_DIR)
  file(STRINGS "${ONNXRuntime_INCLUDE_DIR}/onnxruntime_c_api.h" ONNXRuntime_line REGEX "#define ORT_API_VERSION [0-9]+")
  string(REGEX MATCH "[0-9]+" ONNXRuntime_VERSION_MINOR "${ONNXRuntime_line}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime REQUIRED_VARS ONNXRuntime_LIBRARY ONNXRuntime_INCLUDE_DIR)
mark_as_advanced(ONNXRuntime_INCLUDE_DIR ONNXRuntime_LIBRARY)

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
  add_library(ONNXRuntime::ONNXRuntime UNKNOWN IMPORTED)
  set_target_properties(ONNXRuntime::ONNXRuntime PROPERTIES
    IMPORTED_LOCATION "${ONNXRuntime_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${ONNXRuntime_INCLUDE_DIR}")
endif()
