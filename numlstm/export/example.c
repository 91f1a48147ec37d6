/* Reads a model, steps it ten times and prints the last output.
 *
 *     @COMPILE@
 *     ./example model.numlstm
 */
#include "@PREFIX@.h"

#include <stdio.h>
#include <stdlib.h>

/* Memory on a cache line; `free` takes *block. */
static void *aligned(size_t bytes, void **block)
{
    unsigned char *memory = (unsigned char *)malloc(bytes + 64);
    *block = memory;
    return memory == NULL ? NULL : memory + (64 - (uintptr_t)memory % 64) % 64;
}

static int failed(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

int main(int argc, char **argv)
{
    const @PREFIX@_model *model;
    @PREFIX@_state *state;
    @PREFIX@_number *input, *output;
    void *bytes, *memory, *bytes_block, *memory_block;
    FILE *file;
    long length;
    int64_t needed, k;
    int code, n;

    if (argc != 2)
        return failed("usage", "example MODEL");
    file = fopen(argv[1], "rb");
    if (file == NULL)
        return failed(argv[1], "cannot be opened");
    if (fseek(file, 0, SEEK_END) != 0 || (length = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0)
        return failed(argv[1], "has no length");
    bytes = aligned((size_t)length, &bytes_block);
    if (bytes == NULL || fread(bytes, 1, (size_t)length, file) != (size_t)length)
        return failed(argv[1], "cannot be read");
    fclose(file);

    code = @PREFIX@_load(bytes, length, &model);
    if (code != 0)
        return failed(argv[1], @PREFIX@_error_text(code));
    needed = @PREFIX@_state_bytes(model, 1, 64);
    memory = aligned((size_t)needed, &memory_block);
    input = (@PREFIX@_number *)calloc((size_t)@PREFIX@_input_size(model), sizeof *input);
    output = (@PREFIX@_number *)calloc((size_t)@PREFIX@_output_size(model), sizeof *output);
    if (memory == NULL || input == NULL || output == NULL)
        return failed("memory", "there is not enough");
    code = @PREFIX@_state_init(model, 1, 64, memory, needed, &state);
    if (code != 0)
        return failed("state", @PREFIX@_error_text(code));

    for (n = 0; n < 10; n++) { /* nothing is allocated from here on */
        for (k = 0; k < @PREFIX@_input_size(model); k++)
            input[k] = (@PREFIX@_number)n / 10;
        /* one direction step by step; a bidirectional model sees whole sequences: here each of one step */
        code = @PREFIX@_num_directions(model) == 1 ? @PREFIX@_step(state, input, output)
                                                   : @PREFIX@_forward(state, 1, input, output);
        if (code != 0)
            return failed("step", @PREFIX@_error_text(code));
    }
    for (k = 0; k < @PREFIX@_output_size(model); k++)
        printf("%.9g\n", (double)output[k]);

    free(input);
    free(output);
    free(memory_block);
    free(bytes_block);
    return 0;
}
