/* An LSTM of numlstm in C and C++: @KIND@ numbers, @TARGET@.
 *
 * A model is what `numlstm export` wrote, read into memory or linked into the program. It is read only: any number of
 * states, on any number of threads, share it. A state is one stream (or one batch of them): h, c, and all that a call
 * writes. Two threads must not use one state at the same time.
 *
 * Nothing here allocates, locks, calls the system or has global state, and nothing of libc is needed. Results are, bit
 * for bit, those of numlstm in Python, however a sequence is cut into steps and pieces.
 *
 *     const @PREFIX@_model *model;
 *     @PREFIX@_state *state;
 *     int code = @PREFIX@_load(bytes, length, &model);
 *     int64_t needed = @PREFIX@_state_bytes(model, 1, 1);
 *     ... memory of so many bytes ...
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

/* What functions return. 0 is success; after any other code nothing was changed. */
enum @PREFIX@_code {
@CODES@
};

/* A code in words. Never null. */
const char *@PREFIX@_error_text(int code);

/* Check a model of `length` bytes, all of it, by a checksum, and whether this CPU can run the library.
 *
 * `bytes` must be aligned to 8 bytes; aligned to 64, calls are fastest. It is not copied: it must stay where it is, as
 * it is, as long as the model is used. `*model` is set on success only.
 */
int @PREFIX@_load(const void *bytes, int64_t length, const @PREFIX@_model **model);

/* Sizes, as torch.nn.LSTM calls them. The model must be one that @PREFIX@_load gave. */
int64_t @PREFIX@_input_size(const @PREFIX@_model *model);
int64_t @PREFIX@_hidden_size(const @PREFIX@_model *model);
int64_t @PREFIX@_num_layers(const @PREFIX@_model *model);
int64_t @PREFIX@_num_directions(const @PREFIX@_model *model); /* 2 if bidirectional, else 1 */
int64_t @PREFIX@_proj_size(const @PREFIX@_model *model);      /* 0 for none */
/* Numbers that a step puts out for a row: num_directions times proj_size or, where that is 0, hidden_size. */
int64_t @PREFIX@_output_size(const @PREFIX@_model *model);

/* Bytes of memory for a state; 0 if `batch` or `steps` is out of range.
 *
 * batch  rows that run beside each other, each with an h and a c of its own; 1 for a single stream
 * steps  of the longest piece of a sequence that is run at once: 1 if only @PREFIX@_step is called; 64 is a good
 *        choice for sequences, which may be longer; the longest sequence if the model is bidirectional
 */
int64_t @PREFIX@_state_bytes(const @PREFIX@_model *model, int64_t batch, int64_t steps);

/* Make a state, with h and c zero, in memory of the caller's, of any alignment.
 *
 * There is nothing to undo it: a state ends with its memory. It must not be moved, and the model must outlive it.
 */
int @PREFIX@_state_init(const @PREFIX@_model *model, int64_t batch, int64_t steps, void *memory, int64_t length,
                        @PREFIX@_state **state);

/* One step: input is (batch, input_size), output (batch, output_size), both without gaps; they must not overlap.
 * h and c of the state go on. Not for bidirectional models.
 */
int @PREFIX@_step(@PREFIX@_state *state, const @PREFIX@_number *input, @PREFIX@_number *output);

/* A sequence: input is (steps, batch, input_size), output (steps, batch, output_size), as above.
 *
 * It begins with the h and c of the state and leaves the final ones there. A sequence may be of any length, and so may
 * the pieces of one; of a bidirectional model it is whole, and of at most the state's steps: reset between sequences.
 */
int @PREFIX@_forward(@PREFIX@_state *state, int64_t steps, const @PREFIX@_number *input, @PREFIX@_number *output);

/* Set h and c to zero. */
int @PREFIX@_reset(@PREFIX@_state *state);

/* h, as (num_layers * num_directions, batch, proj_size or hidden_size), and c, as (num_layers * num_directions, batch,
 * hidden_size), to read and to write between calls. Null if this is no state.
 */
@PREFIX@_number *@PREFIX@_h(@PREFIX@_state *state);
@PREFIX@_number *@PREFIX@_c(@PREFIX@_state *state);

#ifdef __cplusplus
}
#endif

#endif
