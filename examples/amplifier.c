/* A guitar amplifier on a WAV file, sample by sample, without Python.
 *
 *     numlstm export examples/amplifier.json -o amplifier
 *     cc -O2 -I amplifier examples/amplifier.c amplifier/libnumlstm.a -o amplifier/play
 *     amplifier/play amplifier/model.numlstm examples/speech.wav amplified.wav
 *
 * The model is any of one input and one output in float32. The input has samples of 16 bits and up to 8 channels, which
 * are the rows of a batch; the output has samples in float32, which are the bits of `model.stream()` in Python.
 */
#include "numlstm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_CHANNELS 8

static void stop(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

/* The content of a file, on a cache line. */
static unsigned char *read_file(const char *path, long *length)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes;

    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (*length = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0)
        stop(path, "cannot be opened");
    bytes = (unsigned char *)malloc((size_t)*length + 64);
    if (bytes != NULL)
        bytes += 64 - (uintptr_t)bytes % 64;
    if (bytes == NULL || fread(bytes, 1, (size_t)*length, file) != (size_t)*length)
        stop(path, "cannot be read");
    fclose(file);
    return bytes;
}

static uint32_t number(const unsigned char *bytes, int count)
{
    uint32_t value = 0;

    while (count-- > 0)
        value = value << 8 | bytes[count];
    return value;
}

/* The chunk of that name, and its length; chunks begin behind the 12 bytes of RIFF, and have an even length. */
static const unsigned char *chunk(const char *path, const unsigned char *wav, long length, const char *name, long *size)
{
    long at = 12;

    while (at + 8 <= length) {
        *size = (long)number(wav + at + 4, 4);
        if (*size > length - at - 8)
            *size = length - at - 8;
        if (memcmp(wav + at, name, 4) == 0)
            return wav + at + 8;
        at += 8 + *size + *size % 2;
    }
    stop(path, "is no WAV file");
    return NULL;
}

static void put(FILE *file, uint32_t value, int count)
{
    for (; count > 0; count--, value >>= 8)
        fputc((int)(value & 255), file);
}

/* The header of a WAV file of float32. */
static void write_header(FILE *file, uint32_t channels, uint32_t rate, uint32_t frames)
{
    uint32_t bytes = frames * channels * 4;

    fputs("RIFF", file);
    put(file, 36 + bytes, 4);
    fputs("WAVEfmt ", file);
    put(file, 16, 4);
    put(file, 3, 2); /* float */
    put(file, channels, 2);
    put(file, rate, 4);
    put(file, rate * channels * 4, 4);
    put(file, channels * 4, 2);
    put(file, 32, 2);
    fputs("data", file);
    put(file, bytes, 4);
}

int main(int argc, char **argv)
{
    const numlstm_model *model;
    numlstm_state *state;
    const unsigned char *wav, *format, *data;
    unsigned char *bytes, *memory;
    float input[MOST_CHANNELS], output[MOST_CHANNELS];
    long length, size;
    uint32_t channels, frames, n, k;
    FILE *file;
    int code;

    if (argc != 4)
        stop("usage", "play MODEL INPUT.wav OUTPUT.wav");
    bytes = read_file(argv[1], &length);
    code = numlstm_load(bytes, length, &model);
    if (code != NUMLSTM_OK)
        stop(argv[1], numlstm_error_text(code));
    if (numlstm_input_size(model) != 1 || numlstm_output_size(model) != 1)
        stop(argv[1], "is no model of one input and one output");

    wav = read_file(argv[2], &length);
    format = chunk(argv[2], wav, length, "fmt ", &size);
    channels = number(format + 2, 2);
    if (size < 16 || number(format, 2) != 1 || number(format + 14, 2) != 16 || channels < 1 || channels > MOST_CHANNELS)
        stop(argv[2], "is no WAV file with samples of 16 bits and up to 8 channels");
    data = chunk(argv[2], wav, length, "data", &size);
    frames = (uint32_t)size / (2 * channels);

    size = (long)numlstm_state_bytes(model, channels, 1);
    memory = (unsigned char *)malloc((size_t)size);
    if (memory == NULL || (code = numlstm_state_init(model, channels, 1, memory, size, &state)) != NUMLSTM_OK)
        stop("state", "there is not enough memory");
    file = fopen(argv[3], "wb");
    if (file == NULL)
        stop(argv[3], "cannot be written");
    write_header(file, channels, number(format + 4, 4), frames);
    for (n = 0; n < frames; n++) { /* what a sound card would call; nothing is allocated in numlstm_step */
        for (k = 0; k < channels; k++)
            input[k] = (float)(int16_t)number(data + 2 * (n * channels + k), 2) / 32768.0f;
        numlstm_step(state, input, output);
        if (fwrite(output, sizeof *output, channels, file) != channels)
            stop(argv[3], "cannot be written");
    }
    if (fclose(file) != 0)
        stop(argv[3], "cannot be written");
    return 0;
}
