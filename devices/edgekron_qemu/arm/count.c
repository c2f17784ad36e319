/* Plug-in of qemu-user that counts the AArch64 instructions a program executes, by class.
 *
 *   gcc -O2 -Wall -Wextra -Werror -shared -fPIC -Wl,-z,lazy -o count.so count.c
 *   qemu-aarch64 -plugin count.so PROGRAM
 *
 * The program asks by prctl(0x454b5250, FD), an option that no kernel knows: the counts so far go to its
 * file descriptor FD as one line of JSON. Each instruction is of exactly one class. A block of instructions is
 * counted when it is entered, and the counters are not atomic: the counts are exact while one thread runs and
 * no signal arrives.
 *
 * Plug-in interface 1 (qemu 4.2 to 8.2); its few prototypes are here, for Debian ships no qemu-plugin.h. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int add_u64, void *, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_syscall_cb(plugin_id,
                                          void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                   uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));

int qemu_plugin_version = 1;

enum { PRCTL = 167, MARK = 0x454b5250 };
enum { FMLA, FMLA16, SDOT, SMMLA, SMLAL, SIMD, SVE, FLOAT, LOAD, STORE, BRANCH, INTEGER, OTHER, CLASSES };
static const char *const names[CLASSES] = {"fmla",  "fmla16", "sdot", "smmla", "smlal",  "simd",   "sve",
                                           "float", "load",   "store", "branch", "integer", "other"};
static uint64_t counts[CLASSES];

/* Arm Architecture Reference Manual, "A64 instruction set encoding"; the first row that fits decides. */
static const struct {
    uint32_t mask, value;
    int class;
} rows[] = {
    {0xBFA0FC00, 0x0E20CC00, FMLA},    /* fmla: vectors */
    {0xBF80F400, 0x0F801000, FMLA},    /* .. by element */
    {0xBFE0FC00, 0x0E400C00, FMLA16},  /* the same in fp16 */
    {0xBFC0F400, 0x0F001000, FMLA16},
    {0x9FE0FC00, 0x0E809400, SDOT},    /* sdot, udot: vectors */
    {0xBFE0FC00, 0x0E809C00, SDOT},    /* usdot */
    {0x9FC0F400, 0x0F80E000, SDOT},    /* sdot, udot: by element */
    {0xBF40F400, 0x0F00F000, SDOT},    /* usdot, sudot: by element */
    {0xDFE0F400, 0x4E80A400, SMMLA},   /* smmla, ummla, usmmla */
    {0xFFE0FC00, 0x6E40EC00, SMMLA},   /* bfmmla */
    {0x9F20FC00, 0x0E208000, SMLAL},   /* smlal, umlal, and their forms with 2 */
    {0x9F20FC00, 0x0E20C000, SMLAL},   /* smull, umull */
    {0x9F00F400, 0x0F002000, SMLAL},   /* smlal, umlal: by element */
    {0x9F00F400, 0x0F00A000, SMLAL},   /* smull, umull: by element */
    {0x9E000000, 0x0E000000, SIMD},    /* the rest on vectors */
    {0xFF000000, 0xCE000000, SIMD},    /* sha3, sha512, sm3, sm4 */
    {0x1E000000, 0x04000000, SVE},     /* all of SVE, its loads and stores too */
    {0x0E000000, 0x0E000000, FLOAT},   /* scalar floating point */
    {0xBE400000, 0x0C400000, LOAD},    /* ld1 .. ld4 */
    {0xBE400000, 0x0C000000, STORE},   /* st1 .. st4 */
    {0x3FA00000, 0x08A00000, LOAD},    /* cas; all atomic ones are loads */
    {0xBFA00000, 0x08200000, LOAD},    /* casp */
    {0x3F400000, 0x08400000, LOAD},    /* ldxr, ldar, .. */
    {0x3F400000, 0x08000000, STORE},   /* stxr, stlr, .. */
    {0x3B000000, 0x18000000, LOAD},    /* ldr of a literal */
    {0x3FE00C00, 0x19000000, STORE},   /* stlur */
    {0x3F200C00, 0x19000000, LOAD},    /* ldapur */
    {0x3A400000, 0x28400000, LOAD},    /* ldp */
    {0x3A400000, 0x28000000, STORE},   /* stp */
    {0x3B200C00, 0x38200000, LOAD},    /* ldadd, swp, .. */
    {0x3B200400, 0x38200400, LOAD},    /* ldraa */
    {0x3E400000, 0x3C400000, LOAD},    /* ldr of a vector register */
    {0x3E400000, 0x3C000000, STORE},   /* str of one */
    {0x3EC00000, 0x38000000, STORE},   /* str */
    {0x3E000000, 0x38000000, LOAD},    /* ldr, prfm */
    {0x7C000000, 0x14000000, BRANCH},  /* b, bl */
    {0x7C000000, 0x34000000, BRANCH},  /* cbz, tbz, .. */
    {0xFE000000, 0x54000000, BRANCH},  /* b.cond */
    {0xFE000000, 0xD6000000, BRANCH},  /* br, blr, ret */
    {0x1C000000, 0x10000000, INTEGER}, /* of immediates */
    {0x0E000000, 0x0A000000, INTEGER}, /* of registers */
};

static int class_of(uint32_t word) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if ((word & rows[i].mask) == rows[i].value) return rows[i].class;
    return OTHER;
}

/* For tests: what an instruction counts as. */
const char *edgekron_class(uint32_t word) { return names[class_of(word)]; }

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    uint64_t in_block[CLASSES] = {0};
    size_t n = qemu_plugin_tb_n_insns(block);
    (void)id;
    for (size_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        in_block[class_of(word)]++;
    }
    for (int c = 0; c < CLASSES; c++)
        if (in_block[c]) qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &counts[c], in_block[c]);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t option, uint64_t fd, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    char line[64 * CLASSES];
    int length = 0;
    (void)id, (void)cpu, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != PRCTL || option != MARK) return;
    for (int c = 0; c < CLASSES; c++)
        length += sprintf(line + length, "%s\"%s\": %" PRIu64, c ? ", " : "{", names[c], counts[c]);
    length += sprintf(line + length, "}\n");
    if (write((int)fd, line, (size_t)length) != length) fprintf(stderr, "count: cannot write to %d\n", (int)fd);
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
