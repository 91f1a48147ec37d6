/* A model of numlstm in C and C++: @KIND@ numbers, @TARGET@.
 *
 * A model is a file of `numlstm export`, read into memory or linked into the program. It is read only: any number of
 * states, on any number of threads, share it. A state is one stream (or one batch of them): h, c, and all memory that a
 * call writes. Two threads must not use one state at the same time.
 *
 * No function allocates, locks, calls the system, needs libc or has global state. Results have the bits of numlstm in
 * Python, however a sequence is cut into steps and calls.
 *
 *     const @PREFIX@_model *model;
 *     @PREFIX@_state *state;
 *     int code = @PREFIX@_load(bytes, length, &model);
 *     int64_t needed = @PREFIX@_state_bytes(model, 1, 1);
 *     ... take that many bytes of memory ...
 *     code = @PREFIX@_state_init(model, 1, 1, memory, needed, &state);
 *     code = @PREFIX@_step(state, input, output);
 */
#ifndef @GUARD@_H
#define @GUARD@_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef @KIND@ @PREFIX@_number; /* of input, output, h and c */

typedef struct @PREFIX@_model @PREFIX@_model;
typedef struct @PREFIX@_state @PREFIX@_state;

/* Return values. 0 is success; after any other code nothing was changed. */
enum @PREFIX@_code {
@CODES@
};

/* A message for a code. Never null. */
const char *@PREFIX@_error_text(int code);

/* Check a model of `length` bytes by its checksum, and whether this CPU can run the library.
 *
 * `bytes` must be aligned to 8 bytes; calls are fastest if it is aligned to 64. It is not copied: keep it in place and
 * unchanged as long as the model is used. `*model` is set on success only.
 */
int @PREFIX@_load(const void *bytes, int64_t length, const @PREFIX@_model **model);

/* Sizes, by the names of torch.nn.LSTM, of a model that @PREFIX@_load gave. */
int64_t @PREFIX@_input_size(const @PREFIX@_model *model);
int64_t @PREFIX@_hidden_size(const @PREFIX@_model *model);
int64_t @PREFIX@_num_layers(const @PREFIX@_model *model);
int64_t @PREFIX@_num_directions(const @PREFIX@_model *model); /* 2 if bidirectional, else 1 */
int64_t @PREFIX@_proj_size(const @PREFIX@_model *model);      /* 0 for none */
/* Numbers of a row's output in one step: of the last Linear layer behind the LSTM or, if there is none, num_directions
 * times proj_size or, if that is 0, hidden_size. */
int64_t @PREFIX@_output_size(const @PREFIX@_model *model);

/* Bytes of memory for a state; 0 if `batch` or `steps` is out of range.
 *
 * batch  number of rows, each with its own h and c; 1 for a single stream
 * steps  steps that are run at once, at most: 1 if only @PREFIX@_step is called; 64 is a good choice for sequences,
 *        which may be longer; the length of the longest sequence if the model is bidirectional
 */
int64_t @PREFIX@_state_bytes(const @PREFIX@_model *model, int64_t batch, int64_t steps);

/* Make a state, with h and c zero, in the caller's memory, of any alignment.
 *
 * A state ends with its memory; there is no function to free it. It must not be moved, and the model must outlive it.
 */
int @PREFIX@_state_init(const @PREFIX@_model *model, int64_t batch, int64_t steps, void *memory, int64_t length,
                        @PREFIX@_state **state);

/* Run one step: input is (batch, input_size), output (batch, output_size), both contiguous; they must not overlap.
 * The step updates h and c of the state. Not for bidirectional models.
 */
int @PREFIX@_step(@PREFIX@_state *state, const @PREFIX@_number *input, @PREFIX@_number *output);

/* Run a sequence: input is (steps, batch, input_size), output (steps, batch, output_size), as above.
 *
 * It starts from h and c of the state and leaves the final ones there. A sequence may have any length and may be cut
 * into calls. A bidirectional model takes whole sequences of at most the state's steps; reset the state in between.
 */
int @PREFIX@_forward(@PREFIX@_state *state, int64_t steps, const @PREFIX@_number *input, @PREFIX@_number *output);

/* Set h and c to zero. */
int @PREFIX@_reset(@PREFIX@_state *state);

/* h, as (num_layers * num_directions, batch, proj_size or hidden_size), and c, as (num_layers * num_directions, batch,
 * hidden_size), to read and to write between calls. Null if this is no state. Once you have asked for one of them, each
 * call first flushes numbers that are too small to compute with fast, since you may have written some: a step takes
 * about 10 ns longer.
 */
@PREFIX@_number *@PREFIX@_h(@PREFIX@_state *state);
@PREFIX@_number *@PREFIX@_c(@PREFIX@_state *state);

#ifdef __cplusplus
}
#endif

#endif
