#include "tensor_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "failure.h"

bool tensor_read(const Tensor *tensor, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return failed("cannot read %s: %s", path, strerror(errno));
    bool whole =
        fread(tensor->data, 1, tensor->size, file) == tensor->size && fgetc(file) == EOF && !ferror(file);
    fclose(file);
    if (whole) return true;
    return failed("%s: expected the %zu bytes of input '%s'", path, tensor->size, tensor->name);
}

bool tensor_write(const Tensor *tensor, const char *path) {
    FILE *file = fopen(path, "wb");
    if (!file) return failed("cannot write %s: %s", path, strerror(errno));
    bool whole = fwrite(tensor->data, 1, tensor->size, file) == tensor->size;
    if (fclose(file) == 0 && whole) return true;
    return failed("cannot write %s: %s", path, strerror(errno));
}
