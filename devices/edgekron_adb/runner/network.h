/* Network: an .onnx file in one onnxruntime session on the CPU, which computes on buffers of its own. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_TENSORS 64
#define MAX_RANK 16

typedef struct {
    const char *name;
    const char *dtype; /* as numpy calls it */
    size_t rank;
    int64_t shape[MAX_RANK];
    size_t size; /* bytes */
    void *data;
} Tensor;

/* Tensors in the order of the file; those of the outputs are known once the network has run. */
typedef struct {
    const char *version; /* of onnxruntime */
    int threads;
    size_t inputs, outputs;
    Tensor input[MAX_TENSORS], output[MAX_TENSORS];
} Network;

/* Open the library and the file; input data is zero. Fails for inputs with free extents, and for
 * inputs and outputs that are no tensors of numbers. */
bool network_load(Network *network, const char *library, const char *model, int threads);

/* Compute the outputs, which lie in output[k].data until the next run. */
bool network_run(Network *network, int64_t *nanoseconds);

/* Tell an instruction counter that a run begins, as each does by itself, or that the last one is over. */
void network_mark(void);

#endif
