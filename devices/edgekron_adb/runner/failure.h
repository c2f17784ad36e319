/* Failure: what went wrong, kept until someone tells it. What can fail returns whether it worked. */
#ifndef FAILURE_H
#define FAILURE_H

#include <stdbool.h>

/* Keep the message; returns false. */
bool failed(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The last message. */
const char *failure(void);

#endif
