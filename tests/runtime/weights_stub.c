/* Moves weights of any size and tells where they went; see test_weights.py. */
#include "ofa_network.h"

#include <stdlib.h>
#include <string.h>

static unsigned char blob[3u << 20];
static const unsigned char *weights = blob;

/* Bit 0: the steps read a copy; bit 1: of the same bytes; bit 2: it begins at a huge page;
 * bit 3: restoring leads back to the original, also when done twice. */
__attribute__((visibility("default"))) int move_weights(size_t bytes) {
    const ofa_network network = {.weights = &weights, .weights_bytes = bytes};
    for (size_t i = 0; i < bytes; i++) blob[i] = (unsigned char)(i * 7 + i / 251);
    ofa_weights_move(&network);
    const unsigned char *first = weights;
    ofa_weights_move(&network);
    int found = first != blob ? 1 : 0;
    if (weights == first && memcmp(weights, blob, bytes) == 0) found |= 2;
    if ((uintptr_t)weights % (2u << 20) == 0) found |= 4;
    ofa_weights_restore(&network);
    ofa_weights_restore(&network);
    if (weights == blob) found |= 8;
    return found;
}
