/* ekrun: runs an .onnx file in onnxruntime on a device without Python, for parity and latency.
 *
 *   ekrun LIBRARY MODEL [--threads N]                            requests on stdin, see below
 *   ekrun LIBRARY MODEL [--threads N] --runs N [--warmup N] [--input FILE.raw ..] [--output PREFIX]
 *
 * LIBRARY: libonnxruntime.so; MODEL: an .onnx file whose inputs have fixed shapes. Raw files hold the
 * elements of one tensor in the order of C and of this machine, and are read and written in the order of
 * the inputs and outputs of the file.
 *
 * With --runs it prints one line of JSON: the greeting, "nanoseconds" of every run after the warm-up,
 * "outputs" with name, shape and dtype (and writes PREFIX0.raw, PREFIX1.raw, ..), and "peak_kb". Without
 * --input it computes on zeros.
 *
 * Without it, it prints the greeting (runtime, version, threads, pid, inputs, names of the outputs), and
 * answers every line on stdin by one line of JSON, until stdin closes, which ends it at once:
 *   run IN OUT    reads IN0.raw, IN1.raw, .., runs once, writes OUT0.raw, ..: "outputs", "nanoseconds"
 *   time N        runs N times with the last inputs: "nanoseconds", "peak_kb"
 *
 * A failure is {"error": ".."}; one to load, or any with --runs, ends it with exit code 1. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "failure.h"
#include "json.h"
#include "network.h"
#include "tensor_file.h"

#define MAX_RUNS 10000000
#define SPACE " \t\r\n"

typedef struct {
    const char *library, *model, *output;
    const char *input[MAX_TENSORS];
    size_t inputs;
    long threads, warmup, runs; /* runs: 0 to serve */
    bool one_shot;              /* an option was given that means nothing without --runs */
} Options;

static Network network;

/* Whole numbers in decimal, from least on. */
static bool number(const char *text, long least, long *value) {
    char *end;
    errno = 0;
    long found = strtol(text, &end, 10);
    if (errno || end == text || *end || found < least || found > MAX_RUNS) return false;
    *value = found;
    return true;
}

/* Take one option and its values, of which the first is at words[0]; returns how many, 0 for what is wrong.
 */
static int take(Options *options, const char *option, char **words, int left) {
    if (left < 1) return 0;
    if (!strcmp(option, "--threads")) return number(words[0], 1, &options->threads);
    if (!strcmp(option, "--runs")) return number(words[0], 1, &options->runs);
    options->one_shot = true;
    if (!strcmp(option, "--warmup")) return number(words[0], 0, &options->warmup);
    if (!strcmp(option, "--output")) {
        options->output = words[0];
        return 1;
    }
    if (strcmp(option, "--input")) return 0;
    int taken = 0;
    while (taken < left && strncmp(words[taken], "--", 2)) {
        if (options->inputs == MAX_TENSORS) return 0;
        options->input[options->inputs++] = words[taken++];
    }
    return taken;
}

static bool parse_options(int count, char **words, Options *options) {
    if (count < 3) return false;
    *options = (Options){.library = words[1], .model = words[2], .threads = 1};
    for (int k = 3; k < count;) {
        int taken = take(options, words[k], words + k + 1, count - k - 1);
        if (!taken) return false;
        k += 1 + taken;
    }
    return options->runs || !options->one_shot;
}

static void print_tensors(const char *key, const Tensor *tensors, size_t count) {
    printf("\"%s\": [", key);
    for (size_t k = 0; k < count; k++) {
        printf("%s{\"name\": ", k ? ", " : "");
        json_string(tensors[k].name);
        printf(", \"shape\": ");
        json_integers(tensors[k].shape, tensors[k].rank);
        printf(", \"dtype\": \"%s\"}", tensors[k].dtype);
    }
    putchar(']');
}

/* All of the greeting but for the outputs, without the brace that ends it. */
static void print_greeting(void) {
    printf("{\"runtime\": \"onnxruntime\", \"version\": ");
    json_string(network.version);
    printf(", \"threads\": %d, \"pid\": %ld, ", network.threads, (long)getpid());
    print_tensors("inputs", network.input, network.inputs);
}

static void print_nanoseconds(const int64_t *nanoseconds, size_t runs) {
    printf("\"nanoseconds\": ");
    json_integers(nanoseconds, runs);
}

/* The most memory this process has had, null where the system does not tell. */
static void print_peak(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long peak = -1;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "VmHWM: %ld kB", &peak) == 1) break;
    }
    if (file) fclose(file);
    if (peak < 0)
        printf(", \"peak_kb\": null}");
    else
        printf(", \"peak_kb\": %ld}", peak);
}

/* PREFIX0.raw, PREFIX1.raw, .. */
static bool numbered(char *path, const char *prefix, size_t k) {
    return snprintf(path, PATH_MAX, "%s%zu.raw", prefix, k) < PATH_MAX ||
           failed("%s: too long a name", prefix);
}

static bool write_outputs(const char *prefix) {
    char path[PATH_MAX];
    for (size_t k = 0; k < network.outputs; k++) {
        if (!numbered(path, prefix, k) || !tensor_write(&network.output[k], path)) return false;
    }
    return true;
}

/* Times of this many runs, to be freed by the caller; NULL if one fails. */
static int64_t *timed(long runs) {
    int64_t *nanoseconds = malloc((size_t)runs * sizeof *nanoseconds);
    for (long k = 0; nanoseconds && k < runs; k++) {
        if (network_run(&network, &nanoseconds[k])) continue;
        free(nanoseconds);
        return NULL;
    }
    network_mark();
    if (!nanoseconds) failed("no memory for the times of %ld runs", runs);
    return nanoseconds;
}

static bool run_once(const Options *options) {
    if (options->inputs && options->inputs != network.inputs) {
        return failed("%zu inputs given, the file has %zu", options->inputs, network.inputs);
    }
    for (size_t k = 0; k < options->inputs; k++) {
        if (!tensor_read(&network.input[k], options->input[k])) return false;
    }
    int64_t *nanoseconds = timed(options->warmup + options->runs);
    if (!nanoseconds || (options->output && !write_outputs(options->output))) return false;
    print_greeting();
    printf(", ");
    print_nanoseconds(nanoseconds + options->warmup, (size_t)options->runs);
    printf(", ");
    print_tensors("outputs", network.output, network.outputs);
    print_peak();
    json_end();
    return true;
}

/* run IN OUT */
static bool answer_run(const char *in, const char *out, bool *filled) {
    char path[PATH_MAX];
    int64_t nanoseconds;
    *filled = false; /* until all of them are */
    for (size_t k = 0; k < network.inputs; k++) {
        if (!numbered(path, in, k) || !tensor_read(&network.input[k], path)) return false;
    }
    *filled = true;
    if (!network_run(&network, &nanoseconds)) return false;
    network_mark();
    if (!write_outputs(out)) return false;
    putchar('{');
    print_tensors("outputs", network.output, network.outputs);
    printf(", ");
    print_nanoseconds(&nanoseconds, 1);
    putchar('}');
    json_end();
    return true;
}

/* time N */
static bool answer_time(const char *word, bool filled) {
    long runs;
    if (!number(word, 1, &runs))
        return failed("time %s: expected a number of runs from 1 to %d", word, MAX_RUNS);
    if (!filled) return failed("time: there are no inputs yet: send a run first");
    int64_t *nanoseconds = timed(runs);
    if (!nanoseconds) return false;
    putchar('{');
    print_nanoseconds(nanoseconds, (size_t)runs);
    print_peak();
    json_end();
    free(nanoseconds);
    return true;
}

static bool answer(char *line, bool *filled) {
    char *rest, *words[4] = {0};
    size_t count = 0;
    for (char *word = strtok_r(line, SPACE, &rest); word && count < 4; word = strtok_r(NULL, SPACE, &rest)) {
        words[count++] = word;
    }
    if (count == 3 && !strcmp(words[0], "run")) return answer_run(words[1], words[2], filled);
    if (count == 2 && !strcmp(words[0], "time")) return answer_time(words[1], *filled);
    return failed("expected 'run IN OUT' or 'time N'");
}

/* Hand stdin on, and end the process when it closes, whatever the process is doing. */
static void *watch_stdin(void *onward) {
    char data[4096];
    for (ssize_t size; (size = read(STDIN_FILENO, data, sizeof data)) > 0;) {
        if (write(*(int *)onward, data, (size_t)size) != size) break;
    }
    _exit(0);
}

static int serve(void) {
    int ends[2];
    pthread_t thread;
    FILE *requests;
    if (pipe(ends) || !(requests = fdopen(ends[0], "r")) ||
        pthread_create(&thread, NULL, watch_stdin, &ends[1])) {
        json_error("cannot watch stdin");
        return 1;
    }
    print_greeting();
    printf(", \"outputs\": [");
    for (size_t k = 0; k < network.outputs; k++) {
        if (k) printf(", ");
        json_string(network.output[k].name);
    }
    printf("]}");
    json_end();
    char *line = NULL;
    size_t room = 0;
    bool filled = false;
    while (getline(&line, &room, requests) > 0) {
        if (!answer(line, &filled)) json_error(failure());
    }
    return 0;
}

int main(int count, char **words) {
    Options options;
    if (!parse_options(count, words, &options)) {
        fputs(
            "usage: ekrun LIBRARY MODEL [--threads N]\n"
            "       ekrun LIBRARY MODEL [--threads N] --runs N [--warmup N] [--input FILE.raw ..] [--output "
            "PREFIX]\n",
            stderr);
        return 2;
    }
    setenv("ORT_DISABLE_TELEMETRY", "1", 1); /* before the library is there to read it */
    if (network_load(&network, options.library, options.model, (int)options.threads)) {
        if (!options.runs) return serve();
        if (run_once(&options)) return 0;
    }
    json_error(failure());
    return 1;
}
