# TensorRT (component nvinfer, from TensorRT_ROOT) or TensorRT-RTX (component rtx, from TensorRT_RTX_ROOT): the target
# TensorRT::nvinfer or TensorRT::rtx with the CUDA runtime behind it, and TensorRT_VERSION.

find_package(CUDAToolkit QUIET)

if("rtx" IN_LIST TensorRT_FIND_COMPONENTS)
  set(TensorRT_component rtx)
  set(TensorRT_library_name tensorrt_rtx)
  set(TensorRT_hint "${TensorRT_RTX_ROOT}")
else()
  set(TensorRT_component nvinfer)
  set(TensorRT_library_name nvinfer)
  set(TensorRT_hint "${TensorRT_ROOT}")
endif()

find_path(TensorRT_${TensorRT_component}_INCLUDE_DIR NvInferRuntime.h
  HINTS "${TensorRT_hint}" PATH_SUFFIXES include)
find_library(TensorRT_${TensorRT_component}_LIBRARY NAMES ${TensorRT_library_name}
  HINTS "${TensorRT_hint}" PATH_SUFFIXES lib lib64)

# The numbers stand behind the public names in older headers and behind others in newer ones.
set(TensorRT_VERSION)
if(TensorRT_${TensorRT_component}_INCLUDE_DIR)
  file(STRINGS "${TensorRT_${TensorRT_component}_INCLUDE_DIR}/NvInferVersion.h" TensorRT_lines
    REGEX "#define (NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)[A-Z_]* +[0-9]+")
  foreach(part IN ITEMS MAJOR MINOR PATCH)
    if(TensorRT_lines MATCHES "_${part}[A-Z_]* +([0-9]+)")
      list(APPEND TensorRT_VERSION ${CMAKE_MATCH_1})
    endif()
  endforeach()
  list(JOIN TensorRT_VERSION "." TensorRT_VERSION)
endif()

set(TensorRT_${TensorRT_component}_FOUND FALSE)
if(CUDAToolkit_FOUND AND TensorRT_${TensorRT_component}_INCLUDE_DIR AND TensorRT_${TensorRT_component}_LIBRARY)
  set(TensorRT_${TensorRT_component}_FOUND TRUE)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_${TensorRT_component}_LIBRARY TensorRT_${TensorRT_component}_INCLUDE_DIR CUDAToolkit_FOUND
  VERSION_VAR TensorRT_VERSION
  HANDLE_COMPONENTS)
mark_as_advanced(TensorRT_${TensorRT_component}_INCLUDE_DIR TensorRT_${TensorRT_component}_LIBRARY)

if(TensorRT_FOUND AND NOT TARGET TensorRT::${TensorRT_component})
  add_library(TensorRT::${TensorRT_component} UNKNOWN IMPORTED)
  set_target_properties(TensorRT::${TensorRT_component} PROPERTIES
    IMPORTED_LOCATION "${TensorRT_${TensorRT_component}_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_${TensorRT_component}_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES CUDA::cudart)
endif()
