#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

static char message[8192];

bool failed(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return false;
}

const char *failure(void) { return message; }
