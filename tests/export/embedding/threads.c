/* threads MODEL: four threads, each with a state of its own, on one model; and on a second copy of the model.
 *
 * Each gives the bits that it gave alone. Prints how many sequences were compared.
 */
#define _DEFAULT_SOURCE
#include "memory.h"
#include "numlstm.h"

#include <pthread.h>
#include <string.h>

enum { THREADS = 4, STEPS = 7 };

struct job {
    const numlstm_model *model;
    int seed, rounds;
    numlstm_number *output;
};

static void *work(void *given)
{
    struct job *job = (struct job *)given;
    const int64_t inputs = numlstm_input_size(job->model), outputs = numlstm_output_size(job->model);
    const int64_t needed = numlstm_state_bytes(job->model, 1, STEPS);
    void *memory = guarded((size_t)needed);
    numlstm_number *input = (numlstm_number *)guarded((size_t)(STEPS * inputs) * sizeof *input);
    numlstm_state *state;
    int64_t k;
    int round;

    if (numlstm_state_init(job->model, 1, STEPS, memory, needed, &state) != NUMLSTM_OK)
        fail("a state cannot be made");
    for (k = 0; k < STEPS * inputs; k++)
        input[k] = (numlstm_number)((k * 37 + job->seed * 11) % 23 - 11) / 7;
    for (round = 0; round < job->rounds; round++)
        if (numlstm_reset(state) != NUMLSTM_OK ||
            numlstm_forward(state, STEPS, input, job->output + round * STEPS * outputs) != NUMLSTM_OK)
            fail("a sequence cannot be run");
    discard(memory, (size_t)needed);
    discard(input, (size_t)(STEPS * inputs) * sizeof *input);
    return NULL;
}

int main(int argc, char **argv)
{
    const numlstm_model *models[2];
    struct job jobs[THREADS];
    pthread_t threads[THREADS];
    size_t lengths[2], bytes;
    unsigned char *copies[2];
    numlstm_number *alone;
    int n, round, compared = 0;
    const int rounds = argc == 3 ? atoi(argv[2]) : 200;

    if (argc < 2)
        fail("threads MODEL [ROUNDS]");
    for (n = 0; n < 2; n++) {
        copies[n] = contents(argv[1], &lengths[n]);
        if (numlstm_load(copies[n], (int64_t)lengths[n], &models[n]) != NUMLSTM_OK)
            fail("the model cannot be loaded");
    }
    bytes = (size_t)(STEPS * numlstm_output_size(models[0])) * sizeof(numlstm_number);
    alone = (numlstm_number *)malloc(THREADS * bytes);
    if (alone == NULL)
        fail("no memory");
    for (n = 0; n < THREADS; n++) {
        struct job job;
        job.model = models[0];
        job.seed = n;
        job.rounds = 1;
        job.output = alone + (size_t)n * (bytes / sizeof *alone);
        work(&job);
        jobs[n] = job;
        jobs[n].model = models[n % 2];
        jobs[n].rounds = rounds;
        jobs[n].output = (numlstm_number *)malloc((size_t)rounds * bytes);
        if (jobs[n].output == NULL)
            fail("no memory");
    }
    for (n = 0; n < THREADS; n++)
        if (pthread_create(&threads[n], NULL, work, &jobs[n]) != 0)
            fail("a thread cannot be started");
    for (n = 0; n < THREADS; n++) {
        pthread_join(threads[n], NULL);
        for (round = 0; round < rounds; round++, compared++)
            if (memcmp((char *)jobs[n].output + (size_t)round * bytes, (char *)alone + (size_t)n * bytes, bytes) != 0)
                fail("a thread has other bits than alone");
        free(jobs[n].output);
    }
    free(alone);
    for (n = 0; n < 2; n++)
        discard(copies[n], lengths[n]);
    printf("compared %d\n", compared);
    return 0;
}
