/* mutate MODEL: a model that is damaged, cut or forged gives an error code, or is a sound one; nothing crashes.
 *
 * Every bit of the header and every 61st beyond it is flipped, and bytes are overwritten at random; the model is cut to
 * every length up to 300 and to random ones. Forged ones have other sizes and a checksum that is right: those
 * that are taken are run, in memory of just the size that the library asks for.
 * Prints how many were refused, by kind, and how many forged ones were run.
 */
#define _DEFAULT_SOURCE
#include "memory.h"
#include "numlstm.h"

#include <string.h>

static uint64_t seed = 88172645463325252u;

static uint64_t next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint32_t crc(const unsigned char *bytes, size_t length)
{
    uint32_t value = 0xffffffffu;
    size_t k;
    int bit;
    for (k = 0; k < length; k++) {
        value ^= bytes[k];
        for (bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
    }
    return value ^ 0xffffffffu;
}

static const unsigned char *original;
static size_t length;

/* The code for the first `count` bytes, with a mutation applied by `change`. */
static int code_of(unsigned char *copy, size_t count)
{
    const numlstm_model *model = NULL;
    int code = numlstm_load(copy, (int64_t)count, &model);
    if ((code == NUMLSTM_OK) != (model != NULL))
        fail("a model is set exactly if it is good");
    if (code < 0 || code > NUMLSTM_CELL || numlstm_error_text(code)[0] == '\0')
        fail("an unknown code");
    return code;
}

static void refused(int code)
{
    if (code == NUMLSTM_OK)
        fail("a damaged model was taken");
}

static int run(const unsigned char *copy)
{
    const numlstm_model *model;
    numlstm_state *state;
    int64_t needed;
    size_t inputs, outputs;
    numlstm_number *x, *y;
    void *memory;
    int code;

    if (numlstm_load(copy, (int64_t)length, &model) != NUMLSTM_OK)
        return 0;
    needed = numlstm_state_bytes(model, 2, 3);
    if (needed <= 0 || needed > (1 << 26))
        return 0;
    inputs = (size_t)(6 * numlstm_input_size(model)) * sizeof *x;
    outputs = (size_t)(6 * numlstm_output_size(model)) * sizeof *y;
    x = (numlstm_number *)guarded(inputs);
    y = (numlstm_number *)guarded(outputs);
    memory = guarded((size_t)needed);
    memset(x, 0, inputs);
    code = numlstm_state_init(model, 2, 3, memory, needed, &state);
    if (code != NUMLSTM_OK || numlstm_forward(state, 3, x, y) != NUMLSTM_OK)
        fail("a model that was taken does not run");
    discard(x, inputs);
    discard(y, outputs);
    discard(memory, (size_t)needed);
    return 1;
}

int main(int argc, char **argv)
{
    const size_t header = 128;
    size_t bits = 0, overwritten = 0, cut = 0, forged = 0, ran = 0, k, n;
    unsigned char *copy;

    if (argc != 2)
        fail("mutate MODEL");
    original = contents(argv[1], &length);
    copy = (unsigned char *)guarded(length);
    memcpy(copy, original, length);
    if (code_of(copy, length) != NUMLSTM_OK || run(copy) != 1)
        fail("the model itself is not good");

    for (k = 0; k < 8 * length; k += k < 8 * header ? 1 : 61, bits++) {
        copy[k / 8] ^= (unsigned char)(1 << k % 8);
        refused(code_of(copy, length));
        copy[k / 8] = original[k / 8];
    }
    for (n = 0; n < 2000; n++, overwritten++) {
        const size_t start = (size_t)next() % length, most = length - start;
        const size_t count = 1 + (size_t)next() % (most < 64 ? most : 64);
        for (k = start; k < start + count; k++)
            copy[k] = (unsigned char)next();
        if (memcmp(copy, original, length) != 0)
            refused(code_of(copy, length));
        memcpy(copy, original, length);
    }
    for (n = 0; n < 900; n++, cut++) {
        const size_t count = n < 300 ? n : (size_t)next() % length;
        unsigned char *part = (unsigned char *)guarded(count);
        if (((uintptr_t)part & 7) == 0 || n % 2 == 0) { /* misaligned ones as well */
            memcpy(part, original, count);
            refused(code_of(part, count));
        }
        discard(part, count);
    }
    for (n = 0; n < 4000; n++, forged++) {
        static const int64_t sizes[] = {0, 1, 2, 3, 5, 8, 13, -1, 1 << 20, (1 << 20) + 1, INT64_MAX, INT64_MIN};
        const size_t changes = 1 + (size_t)next() % 3;
        int64_t value;
        uint64_t sum;
        for (k = 0; k < changes; k++) {
            const size_t word = 6 + (size_t)next() % 5; /* INPUT_SIZE to PROJ_SIZE */
            value = n % 2 ? sizes[next() % 12] : (int64_t)(next() % 24);
            memcpy(copy + 8 * word, &value, 8);
        }
        sum = crc(copy + 32, length - 32);
        memcpy(copy + 24, &sum, 8);
        ran += (size_t)run(copy);
        memcpy(copy, original, length);
    }
    printf("bits %lu overwritten %lu cut %lu forged %lu ran %lu\n", (unsigned long)bits, (unsigned long)overwritten,
           (unsigned long)cut, (unsigned long)forged, (unsigned long)ran);
    discard(copy, length);
    return 0;
}
