#include "network.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "failure.h"
#include "ort_abi.h"

#define MARKER 0x454b5250 /* no real option of prctl: a kernel refuses it, an instruction counter sees it */
#define FIELD(place, result, name, arguments) result(*name) arguments;
#define FILL(place, result, name, arguments) memcpy(&ort.name, table + (place), sizeof ort.name);

static struct {
    ORT_FUNCTIONS(FIELD)
} ort;
static OrtEnv *environment; /* these live until the process ends */
static OrtSession *session;
static OrtAllocator *allocator;
static OrtValue *values_in[MAX_TENSORS], *values_out[MAX_TENSORS];
static const char *names_in[MAX_TENSORS], *names_out[MAX_TENSORS];

static bool ok(OrtStatus *status) {
    if (!status) return true;
    failed("%s", ort.GetErrorMessage(status));
    ort.ReleaseStatus(status);
    return false;
}

static bool open_library(Network *network, const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return failed("cannot open the library: %s", dlerror());
    const OrtApiBase *(*get_base)(void);
    void *symbol = dlsym(library, "OrtGetApiBase");
    if (!symbol) return failed("%s is no onnxruntime: it has no OrtGetApiBase", path);
    memcpy(&get_base, &symbol, sizeof symbol); /* ISO C has no cast from data to function */
    network->version = get_base()->GetVersionString();
    const void *const *table = get_base()->GetApi(ORT_VERSION_USED);
    if (!table) {
        return failed("onnxruntime %s is too old: take 1.%d or newer", network->version, ORT_VERSION_USED);
    }
    ORT_FUNCTIONS(FILL)
    return true;
}

static bool open_session(const Network *network, const char *model) {
    OrtSessionOptions *options;
    if (!ok(ort.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "ekrun", &environment)) ||
        !ok(ort.CreateSessionOptions(&options)) || !ok(ort.SetIntraOpNumThreads(options, network->threads)) ||
        !ok(ort.SetInterOpNumThreads(options, 1))) {
        return false;
    }
    /* A spinning thread would slow what is measured beside it. */
    if (network->threads > 1 &&
        !ok(ort.AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"))) {
        return false;
    }
    return ok(ort.CreateSession(environment, model, options, &session)) &&
           ok(ort.GetAllocatorWithDefaultOptions(&allocator));
}

/* Bytes of an element; the name of its type, or NULL for those without a fixed size. */
static size_t element(int number, const char **dtype) {
#define CASE(number, name, numpy, size) \
    case number: \
        *dtype = numpy; \
        return size;
    switch (number) {
        ORT_DTYPES(CASE)
        default:
            *dtype = NULL;
            return 0;
    }
}

/* Fill dtype, rank, shape and size; a free extent is -1, and the size then 0. */
static bool describe(Tensor *tensor, const OrtTensorTypeAndShapeInfo *info) {
    enum ONNXTensorElementDataType type;
    if (!ok(ort.GetTensorElementType(info, &type)) || !ok(ort.GetDimensionsCount(info, &tensor->rank)))
        return false;
    tensor->size = element((int)type, &tensor->dtype);
    if (!tensor->dtype)
        return failed("'%s' has elements of type %d, which ekrun does not know", tensor->name, type);
    if (tensor->rank > MAX_RANK) {
        return failed("'%s' has rank %zu: at most %d is supported", tensor->name, tensor->rank, MAX_RANK);
    }
    if (!ok(ort.GetDimensions(info, tensor->shape, tensor->rank))) return false;
    for (size_t k = 0; k < tensor->rank; k++) {
        size_t extent = tensor->shape[k] < 0 ? 0 : (size_t)tensor->shape[k];
        if (__builtin_mul_overflow(tensor->size, extent, &tensor->size)) {
            return failed("'%s' is larger than memory can be", tensor->name);
        }
    }
    return true;
}

static bool describe_type(Tensor *tensor, OrtTypeInfo *type) {
    const OrtTensorTypeAndShapeInfo *info = NULL;
    bool worked = ok(ort.CastTypeInfoToTensorInfo(type, &info));
    if (worked) worked = info ? describe(tensor, info) : failed("'%s' is no tensor", tensor->name);
    ort.ReleaseTypeInfo(type);
    return worked;
}

/* Memory of an input, and the value that stands for it in every run. */
static bool prepare(Tensor *tensor, OrtValue **value) {
    for (size_t k = 0; k < tensor->rank; k++) {
        if (tensor->shape[k] < 0) {
            return failed("input '%s' has a free extent at axis %zu: export the file with fixed shapes",
                          tensor->name, k);
        }
    }
    enum ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
#define NUMBER(number, name, numpy, size) \
    if (!strcmp(tensor->dtype, numpy)) type = (enum ONNXTensorElementDataType)(number);
    ORT_DTYPES(NUMBER)
    OrtMemoryInfo *memory;
    tensor->data = calloc(tensor->size ? tensor->size : 1, 1);
    if (!tensor->data) return failed("no memory for the %zu bytes of input '%s'", tensor->size, tensor->name);
    return ok(ort.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory)) &&
           ok(ort.CreateTensorWithDataAsOrtValue(memory, tensor->data, tensor->size, tensor->shape,
                                                 tensor->rank, type, value));
}

static bool load_tensors(Network *network) {
    OrtTypeInfo *type;
    char *name;
    if (!ok(ort.SessionGetInputCount(session, &network->inputs)) ||
        !ok(ort.SessionGetOutputCount(session, &network->outputs))) {
        return false;
    }
    if (network->inputs > MAX_TENSORS || network->outputs > MAX_TENSORS) {
        return failed("%zu inputs and %zu outputs: at most %d of each are supported", network->inputs,
                      network->outputs, MAX_TENSORS);
    }
    for (size_t k = 0; k < network->inputs; k++) {
        if (!ok(ort.SessionGetInputName(session, k, allocator, &name)) ||
            !ok(ort.SessionGetInputTypeInfo(session, k, &type))) {
            return false;
        }
        network->input[k].name = names_in[k] = name;
        if (!describe_type(&network->input[k], type) || !prepare(&network->input[k], &values_in[k]))
            return false;
    }
    for (size_t k = 0; k < network->outputs; k++) {
        if (!ok(ort.SessionGetOutputName(session, k, allocator, &name)) ||
            !ok(ort.SessionGetOutputTypeInfo(session, k, &type))) {
            return false;
        }
        network->output[k].name = names_out[k] = name;
        if (!describe_type(&network->output[k], type)) return false;
    }
    return true;
}

bool network_load(Network *network, const char *library, const char *model, int threads) {
    network->threads = threads;
    return open_library(network, library) && open_session(network, model) && load_tensors(network);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

void network_mark(void) {
    static unsigned long marks;
    prctl(MARKER, marks++, 0, 0, 0);
}

bool network_run(Network *network, int64_t *nanoseconds) {
    for (size_t k = 0; k < network->outputs; k++) {
        if (values_out[k]) ort.ReleaseValue(values_out[k]);
        values_out[k] = NULL;
    }
    network_mark();
    int64_t start = now();
    OrtStatus *status = ort.Run(session, NULL, names_in, (const OrtValue *const *)values_in, network->inputs,
                                names_out, network->outputs, values_out);
    *nanoseconds = now() - start;
    if (!ok(status)) return false;
    for (size_t k = 0; k < network->outputs; k++) {
        OrtTensorTypeAndShapeInfo *info;
        if (!ok(ort.GetTensorMutableData(values_out[k], &network->output[k].data)) ||
            !ok(ort.GetTensorTypeAndShape(values_out[k], &info))) {
            return false;
        }
        bool worked = describe(&network->output[k], info);
        ort.ReleaseTensorTypeAndShapeInfo(info);
        if (!worked) return false;
    }
    return true;
}
