/* Huge pages serve twice. A core's TLB covers all that a run touches; and what a run touches lies
 * in one piece of physical memory, which is what caches are indexed by: scattered small pages would
 * make the same network a per cent or two faster or slower each time it is loaded. */
#define _DEFAULT_SOURCE

#include "ofa_pages.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define HUGE_PAGE ((size_t)2 << 20)

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

void *ofa_huge_pages(size_t bytes) {
    void *memory = NULL;
    size_t whole = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    if (bytes < HUGE_PAGE / 2 || !has_huge_pages()) return NULL;
    if (posix_memalign(&memory, HUGE_PAGE, whole) != 0) return NULL;
    if (madvise(memory, whole, MADV_HUGEPAGE) == 0) return memory;
    free(memory);
    return NULL;
}
#else
void *ofa_huge_pages(size_t bytes) {
    (void)bytes;
    return NULL;
}
#endif

void *ofa_pages(size_t bytes) {
    void *memory = ofa_huge_pages(bytes);
    if (memory != NULL) return memory;
    return posix_memalign(&memory, OFA_ALIGNMENT, bytes) == 0 ? memory : NULL;
}
