/* JSON on stdout: one object per line. */
#ifndef JSON_H
#define JSON_H

#include <stddef.h>
#include <stdint.h>

/* Any bytes: those that are no UTF-8 become lone surrogates, as Python's surrogateescape has it. */
void json_string(const char *text);
void json_integers(const int64_t *values, size_t count);
/* The whole answer of a failure: {"error": ".."}. */
void json_error(const char *text);
/* End the line, and send it. */
void json_end(void);

#endif
