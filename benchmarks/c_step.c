/* Times the exported library: nanoseconds per sample of step, of forward, and of RTNeural where RTNEURAL is defined.
 *
 *     c_step ROUNDS MODEL...
 *
 * Each round runs the same samples in every way, one after the other; the least time of all rounds counts.
 */
#include "numlstm.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SAMPLES = 2048, WAYS = 3 };

#ifdef RTNEURAL
void rtneural(int units, const float *input, float *output, int samples);
#endif

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void *memory(int64_t bytes)
{
    return aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
}

static numlstm_state *state_of(const numlstm_model *model, int64_t steps)
{
    numlstm_state *state;
    int64_t needed = numlstm_state_bytes(model, 1, steps);
    if (numlstm_state_init(model, 1, steps, memory(needed), needed, &state) != 0)
        exit(3);
    return state;
}

static void run(int way, numlstm_state *state, int units, const float *input, float *output)
{
    int k;
    if (way == 0)
        for (k = 0; k < SAMPLES; k++)
            numlstm_step(state, input + k, output + k * units);
    if (way == 1)
        numlstm_forward(state, SAMPLES, input, output);
#ifdef RTNEURAL
    if (way == 2)
        rtneural(units, input, output, SAMPLES);
#endif
}

static void measure(const char *path, int rounds)
{
    double least[WAYS] = {1e18, 1e18, 1e18};
    const numlstm_model *model;
    numlstm_state *states[WAYS] = {NULL};
    float *input = memory(SAMPLES * sizeof *input), *output;
    long length;
    void *bytes;
    int round, way, units, k;
    FILE *file = fopen(path, "rb");

    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        exit(1);
    length = ftell(file);
    rewind(file);
    bytes = memory(length);
    if (fread(bytes, 1, (size_t)length, file) != (size_t)length || numlstm_load(bytes, length, &model) != 0)
        exit(2);
    fclose(file);
    units = (int)numlstm_hidden_size(model);
    output = memory(SAMPLES * (int64_t)units * (int64_t)sizeof *output);
    for (k = 0; k < SAMPLES; k++)
        input[k] = (float)(k * 7919 % 2000) / 1000 - 1;
    states[0] = state_of(model, 1);
    states[1] = state_of(model, SAMPLES);
    for (round = 0; round < rounds; round++)
        for (way = 0; way < WAYS; way++) {
            double begun = now(), took;
            run(way, states[way], units, input, output);
            took = (now() - begun) / SAMPLES;
            if (took < least[way])
                least[way] = took;
        }
    printf("%d %.2f %.2f %.2f\n", units, least[0], least[1], least[2]);
}

int main(int argc, char **argv)
{
    int k;
    for (k = 2; k < argc; k++)
        measure(argv[k], atoi(argv[1]));
    return 0;
}
