/* What a kernel compiled for the CPU and the driver that runs its grid know of each other. */
#ifndef OFA_SOFTWARE_GRID_H
#define OFA_SOFTWARE_GRID_H

#include <stddef.h>

struct Coordinates {
    unsigned x, y, z;
};

/* Which thread the next call is; `wait` returns when all threads of the workgroup have called it. */
struct Place {
    Coordinates block, thread, threads;
    void (*wait)();
};

/* A library's one symbol, `ofa_software_kernel`. */
struct SoftwareKernel {
    const char *name;
    unsigned arguments;
    const size_t *alignments; /* of what the arguments point to */
    unsigned most_threads;    /* that a workgroup may have */
    bool waits;
    Place *place;
    void (*call)(void **values); /* pointers to the arguments */
};

#endif
