/* runner MODEL CASES RESULTS: runs the cases of a file, for Python to compare the bits.
 *
 * A case is five int64 (batch, steps of the state, steps, way, length of a piece), then h, c and input. Ways: 0 the whole
 * sequence, 1 step by step, 2 in pieces, 3 a sequence, a reset and, with h and c set again, the sequence once more.
 * Results are output, h and c.
 */
#define _DEFAULT_SOURCE
#include "memory.h"
#include "numlstm.h"

#include <string.h>

static void check(int code)
{
    if (code != NUMLSTM_OK) {
        fprintf(stderr, "error %d: %s\n", code, numlstm_error_text(code));
        exit(code == NUMLSTM_CPU ? 3 : 1);
    }
}

static void take(FILE *cases, void *into, size_t bytes)
{
    if (fread(into, 1, bytes, cases) != bytes)
        fail("a case is cut short");
}

static void set(numlstm_state *state, const numlstm_number *h_0, size_t h_bytes, const numlstm_number *c_0,
                size_t c_bytes)
{
    memcpy(numlstm_h(state), h_0, h_bytes);
    memcpy(numlstm_c(state), c_0, c_bytes);
}

int main(int argc, char **argv)
{
    const numlstm_model *model;
    size_t length;
    unsigned char *bytes;
    int64_t of[5];
    FILE *cases, *results;

    if (argc != 4)
        fail("runner MODEL CASES RESULTS");
    bytes = contents(argv[1], &length);
    check(numlstm_load(bytes, (int64_t)length, &model));
    cases = fopen(argv[2], "rb");
    results = fopen(argv[3], "wb");
    if (cases == NULL || results == NULL)
        fail("a file cannot be opened");
    while (fread(of, 1, sizeof of, cases) == sizeof of) {
        const int64_t batch = of[0], steps = of[2], way = of[3];
        const int64_t cells = numlstm_num_layers(model) * numlstm_num_directions(model);
        const int64_t inputs = batch * numlstm_input_size(model), outputs = batch * numlstm_output_size(model);
        const int64_t of_h = numlstm_proj_size(model) ? numlstm_proj_size(model) : numlstm_hidden_size(model);
        const size_t number = sizeof(numlstm_number);
        const size_t h_bytes = (size_t)(cells * batch * of_h) * number;
        const size_t c_bytes = (size_t)(cells * batch * numlstm_hidden_size(model)) * number;
        const size_t x_bytes = (size_t)(steps * inputs) * number, y_bytes = (size_t)(steps * outputs) * number;
        const int64_t needed = numlstm_state_bytes(model, batch, of[1]);
        numlstm_number *h_0 = (numlstm_number *)guarded(h_bytes), *c_0 = (numlstm_number *)guarded(c_bytes);
        numlstm_number *x = (numlstm_number *)guarded(x_bytes), *y = (numlstm_number *)guarded(y_bytes);
        void *memory = guarded((size_t)needed);
        numlstm_state *state;
        int64_t done, k;

        if (needed <= 0)
            fail("a state has no size");
        take(cases, h_0, h_bytes);
        take(cases, c_0, c_bytes);
        take(cases, x, x_bytes);
        memset(memory, 0xa5, (size_t)needed);
        check(numlstm_state_init(model, batch, of[1], memory, needed, &state));
        set(state, h_0, h_bytes, c_0, c_bytes);
        if (way == 1) {
            for (done = 0; done < steps; done++)
                check(numlstm_step(state, x + done * inputs, y + done * outputs));
        } else if (way == 2) {
            for (done = 0; done < steps; done += of[4]) {
                const int64_t count = steps - done < of[4] ? steps - done : of[4];
                check(numlstm_forward(state, count, x + done * inputs, y + done * outputs));
            }
        } else {
            check(numlstm_forward(state, steps, x, y));
            if (way == 3) {
                check(numlstm_reset(state));
                for (k = 0; k < cells * batch * of_h; k++)
                    if (numlstm_h(state)[k] != 0)
                        fail("h is not zero after a reset");
                for (k = 0; k < cells * batch * numlstm_hidden_size(model); k++)
                    if (numlstm_c(state)[k] != 0)
                        fail("c is not zero after a reset");
                set(state, h_0, h_bytes, c_0, c_bytes);
                check(numlstm_forward(state, steps, x, y));
            }
        }
        if (fwrite(y, 1, y_bytes, results) != y_bytes || fwrite(numlstm_h(state), 1, h_bytes, results) != h_bytes ||
            fwrite(numlstm_c(state), 1, c_bytes, results) != c_bytes)
            fail("results cannot be written");
        discard(memory, (size_t)needed);
        discard(h_0, h_bytes);
        discard(c_0, c_bytes);
        discard(x, x_bytes);
        discard(y, y_bytes);
    }
    fclose(cases);
    if (fclose(results) != 0)
        fail("results cannot be written");
    discard(bytes, length);
    return 0;
}
