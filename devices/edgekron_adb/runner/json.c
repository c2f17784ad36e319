#include "json.h"

#include <inttypes.h>
#include <stdio.h>

/* Bytes of the UTF-8 character here, 0 if there is none: Unicode 16.0, table 3-7. */
static size_t character(const unsigned char *s) {
    static const struct {
        unsigned char first, last, second_first, second_last;
        size_t size;
    } FORMS[] = {
        {0x00, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t k = 0; k < sizeof FORMS / sizeof *FORMS; k++) {
        if (s[0] < FORMS[k].first || s[0] > FORMS[k].last) continue;
        if (FORMS[k].size > 1 && (s[1] < FORMS[k].second_first || s[1] > FORMS[k].second_last)) return 0;
        for (size_t at = 2; at < FORMS[k].size; at++) {
            if ((s[at] & 0xc0) != 0x80) return 0;
        }
        return FORMS[k].size;
    }
    return 0;
}

void json_string(const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    putchar('"');
    while (*s) {
        size_t size = character(s);
        if (size == 0) {
            printf("\\udc%02x", *s++);
        } else if (*s < 0x20) {
            printf("\\u%04x", *s++);
        } else {
            if (*s == '"' || *s == '\\') putchar('\\');
            fwrite(s, 1, size, stdout);
            s += size;
        }
    }
    putchar('"');
}

void json_integers(const int64_t *values, size_t count) {
    putchar('[');
    for (size_t k = 0; k < count; k++) printf("%s%" PRId64, k ? ", " : "", values[k]);
    putchar(']');
}

void json_error(const char *text) {
    printf("{\"error\": ");
    json_string(text);
    putchar('}');
    json_end();
}

void json_end(void) {
    putchar('\n');
    fflush(stdout);
}
