/* Tensor file: the raw elements of one tensor, in the order of C and of this machine. */
#ifndef TENSOR_FILE_H
#define TENSOR_FILE_H

#include <stdbool.h>

#include "network.h"

/* Fill the data; fails for a file of another size. */
bool tensor_read(const Tensor *tensor, const char *path);
bool tensor_write(const Tensor *tensor, const char *path);

#endif
