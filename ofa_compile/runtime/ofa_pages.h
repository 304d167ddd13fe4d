/* Memory of a network, in huge pages where the system has them. */
#ifndef OFA_PAGES_H
#define OFA_PAGES_H

#include <stddef.h>

/* Kernels use aligned vector loads of up to one cache line. */
#define OFA_ALIGNMENT ((size_t)64)

/* Return memory to be given back by free; NULL if there is none. */
void *ofa_pages(size_t bytes);

/* The same, or NULL where huge pages cannot be had or would be mostly empty. */
void *ofa_huge_pages(size_t bytes);

#endif
