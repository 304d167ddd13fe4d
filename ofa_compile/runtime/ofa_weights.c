/* Weights in huge pages.
 *
 * Every run reads all weights once, more of them than a core's TLB covers with pages of 4 KiB, and
 * pages of a file are never larger: the walks through page tables cost what fetching the weights
 * from memory ahead of time gains. */
#define _DEFAULT_SOURCE

#include "ofa_network.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define HUGE_PAGE ((size_t)2 << 20)

static void *copy;
static const unsigned char *original;

#ifdef MADV_HUGEPAGE
/* Whether madvise brings anything: where huge pages are switched off it succeeds all the same. */
static bool has_huge_pages(void) {
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (file == NULL) return false;
    char line[64] = "";
    bool is_read = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    return is_read && strstr(line, "[never]") == NULL;
}

static void *allocate(size_t bytes) {
    void *memory = NULL;
    if (!has_huge_pages() || posix_memalign(&memory, HUGE_PAGE, bytes) != 0) return NULL;
    if (madvise(memory, bytes, MADV_HUGEPAGE) == 0) return memory;
    free(memory);
    return NULL;
}
#else
static void *allocate(size_t bytes) {
    (void)bytes;
    return NULL;
}
#endif

void ofa_weights_move(const ofa_network *network) {
    if (copy != NULL || network->weights_bytes < HUGE_PAGE) return;
    copy = allocate((network->weights_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
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
