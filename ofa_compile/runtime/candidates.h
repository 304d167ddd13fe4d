/* What a tuner's program is made of: a generated table of candidates, and the C that runs them. */
#ifndef OFA_CANDIDATES_H
#define OFA_CANDIDATES_H

#include <stdint.h>

enum ofa_type { OFA_FLOAT, OFA_HALF, OFA_SIGNED_BYTE, OFA_BYTE };

struct ofa_array {
    long offset; /* in bytes, as the size */
    int size;
};

/* A buffer to fill with an array, at a phase within a page. */
struct ofa_place {
    int array;
    int phase;
};

struct ofa_candidate {
    void (*kernel)(void);
    const struct ofa_place *places;
    const int *rows; /* place of every pointer: `copies` rows of num_pointers + 1 */
    int num_places;
    int num_pointers;
    int copies;
    int32_t tiles;
    int32_t stride;
};

extern const struct ofa_array ofa_arrays[];
extern const struct ofa_candidate ofa_candidates[];
extern const int ofa_num_candidates;
extern const int ofa_expected; /* the array that the output is compared with */
extern const enum ofa_type ofa_type; /* of its values */
extern const long ofa_num_bytes;
extern const double ofa_tolerance;
extern const double ofa_share_between; /* of the bytes that may be one step off */
extern const int ofa_levels;

double ofa_time_kernel(
    void (*kernel)(void), void **arguments, int count, int copies, int32_t tiles, int32_t stride,
    int calls);

#endif
