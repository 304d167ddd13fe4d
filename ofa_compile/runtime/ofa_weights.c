/* Weights in huge pages.
 *
 * Every run reads all weights once, more of them than a core's TLB covers with pages of 4 KiB, and
 * pages of a file are never larger: the walks through page tables cost what fetching the weights
 * from memory ahead of time gains. */
#include <stdlib.h>
#include <string.h>

#include "ofa_network.h"
#include "ofa_pages.h"

static void *copy;
static const unsigned char *original;

void ofa_weights_move(const ofa_network *network) {
    if (copy != NULL) return;
    copy = ofa_huge_pages(network->weights_bytes);
    if (copy == NULL) return;
    original = *network->weights;
    memcpy(copy, original, network->weights_bytes);
    *network->weights = copy;
}

void ofa_weights_restore(const ofa_network *network) {
    if (copy == NULL) return;
    *network->weights = original;
    free(copy);
    copy = NULL;
}
