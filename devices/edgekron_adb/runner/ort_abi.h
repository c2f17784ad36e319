/* The part of onnxruntime's C ABI that ekrun uses, declared by place in the table of functions.
 *
 * Wheels and Android archives of the library come without its header, or with one that fits no older
 * library. The table only grows ("Size of version N API cannot change" is asserted for every N in
 * onnxruntime_c_api.cc), so a place once given stays: this serves every library from 1.7 on, and ekrun
 * needs a C compiler only. abi_check.c compares places and types with the real header where there is one. */
#ifndef ORT_ABI_H
#define ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

#define ORT_VERSION_USED 7

typedef struct OrtEnv OrtEnv;
typedef struct OrtStatus OrtStatus;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtValue OrtValue;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtAllocator OrtAllocator;

#ifndef ORT_API_VERSION /* the real header is not included */
typedef enum { ORT_LOGGING_LEVEL_ERROR = 3 } OrtLoggingLevel;
enum OrtAllocatorType { OrtDeviceAllocator = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0 };
#endif

/* place, result, name, arguments */
#define ORT_FUNCTIONS(X) \
    X(2, const char *, GetErrorMessage, (const OrtStatus *)) \
    X(3, OrtStatus *, CreateEnv, (OrtLoggingLevel, const char *, OrtEnv **)) \
    X(7, OrtStatus *, CreateSession, \
      (const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **)) \
    X(9, OrtStatus *, Run, \
      (OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, size_t, \
       const char *const *, size_t, OrtValue **)) \
    X(10, OrtStatus *, CreateSessionOptions, (OrtSessionOptions **)) \
    X(24, OrtStatus *, SetIntraOpNumThreads, (OrtSessionOptions *, int)) \
    X(25, OrtStatus *, SetInterOpNumThreads, (OrtSessionOptions *, int)) \
    X(30, OrtStatus *, SessionGetInputCount, (const OrtSession *, size_t *)) \
    X(31, OrtStatus *, SessionGetOutputCount, (const OrtSession *, size_t *)) \
    X(33, OrtStatus *, SessionGetInputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **)) \
    X(34, OrtStatus *, SessionGetOutputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **)) \
    X(36, OrtStatus *, SessionGetInputName, (const OrtSession *, size_t, OrtAllocator *, char **)) \
    X(37, OrtStatus *, SessionGetOutputName, (const OrtSession *, size_t, OrtAllocator *, char **)) \
    X(49, OrtStatus *, CreateTensorWithDataAsOrtValue, \
      (const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, enum ONNXTensorElementDataType, \
       OrtValue **)) \
    X(51, OrtStatus *, GetTensorMutableData, (OrtValue *, void **)) \
    X(55, OrtStatus *, CastTypeInfoToTensorInfo, (const OrtTypeInfo *, const OrtTensorTypeAndShapeInfo **)) \
    X(60, OrtStatus *, GetTensorElementType, \
      (const OrtTensorTypeAndShapeInfo *, enum ONNXTensorElementDataType *)) \
    X(61, OrtStatus *, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo *, size_t *)) \
    X(62, OrtStatus *, GetDimensions, (const OrtTensorTypeAndShapeInfo *, int64_t *, size_t)) \
    X(65, OrtStatus *, GetTensorTypeAndShape, (const OrtValue *, OrtTensorTypeAndShapeInfo **)) \
    X(69, OrtStatus *, CreateCpuMemoryInfo, (enum OrtAllocatorType, enum OrtMemType, OrtMemoryInfo **)) \
    X(78, OrtStatus *, GetAllocatorWithDefaultOptions, (OrtAllocator **)) \
    X(93, void, ReleaseStatus, (OrtStatus *)) \
    X(96, void, ReleaseValue, (OrtValue *)) \
    X(98, void, ReleaseTypeInfo, (OrtTypeInfo *)) \
    X(99, void, ReleaseTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo *)) \
    X(130, OrtStatus *, AddSessionConfigEntry, (OrtSessionOptions *, const char *, const char *))

/* Element types by the numbers of ONNX (TensorProto.DataType's order in the C ABI): name of numpy, bytes. */
#define ORT_DTYPES(X) \
    X(1, FLOAT, "float32", 4) \
    X(2, UINT8, "uint8", 1) \
    X(3, INT8, "int8", 1) \
    X(4, UINT16, "uint16", 2) \
    X(5, INT16, "int16", 2) \
    X(6, INT32, "int32", 4) \
    X(7, INT64, "int64", 8) \
    X(9, BOOL, "bool", 1) \
    X(10, FLOAT16, "float16", 2) \
    X(11, DOUBLE, "float64", 8) \
    X(12, UINT32, "uint32", 4) \
    X(13, UINT64, "uint64", 8)

#ifndef ORT_API_VERSION
typedef struct {
    const void *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;
#endif

#endif
