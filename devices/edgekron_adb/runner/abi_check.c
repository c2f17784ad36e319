/* Compares ort_abi.h with the real header, whatever its version; compiles to nothing.
 *
 *   cc -std=c11 -fsyntax-only -I FOLDER_OF_THE_HEADER abi_check.c */
#include "onnxruntime_c_api.h"
#include "ort_abi.h"

#define SAME_PLACE_AND_TYPE(place, result, name, arguments) \
    _Static_assert(offsetof(OrtApi, name) == (place) * sizeof(void *), #name ": another place"); \
    _Static_assert(_Generic(((OrtApi *)0)->name, result(*) arguments: 1, default: 0), #name \
                   ": another " \
                   "type");
#define SAME_NUMBER(number, name, numpy, size) \
    _Static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_##name == (number), #name ": another number");

ORT_FUNCTIONS(SAME_PLACE_AND_TYPE)
ORT_DTYPES(SAME_NUMBER)
_Static_assert(ORT_LOGGING_LEVEL_ERROR == 3 && OrtDeviceAllocator == 0 && OrtMemTypeDefault == 0, "enums");
_Static_assert(offsetof(OrtApiBase, GetApi) == 0, "GetApi: another place");
_Static_assert(offsetof(OrtApiBase, GetVersionString) == sizeof(void *), "GetVersionString: another place");
