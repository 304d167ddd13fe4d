/* What every session checks and says about a call, on a processor as on a GPU. */
#ifndef OFA_CALL_H
#define OFA_CALL_H

#include <stddef.h>

#include "ofa_network.h"

/* Bytes of one run's input and output. */
size_t ofa_input_bytes(const ofa_network *network);
size_t ofa_output_bytes(const ofa_network *network);

/* Whether a run may have these buffers, and a timed one these numbers: OFA_OK or a code. */
int ofa_check_run(const void *input, const void *output);
int ofa_check_timing(const void *input, const void *output, int warmup, int repeats,
                     const double *milliseconds);

/* The text of a code that any session may return; NULL for another. */
const char *ofa_explain(int code);

#endif
