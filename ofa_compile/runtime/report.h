/* What the executable prints: a table, or one JSON document. */
#ifndef OFA_REPORT_H
#define OFA_REPORT_H

#include "options.h"

void report_begin(const options *o);
void report_end(const options *o);
void report_info(const options *o);

/* Print the most probable classes of one input; `index` counts the inputs. Returns an exit code. */
int report_classes(const options *o, const char *name, long index, const float *logits,
                   int classes);

/* Print statistics of sorted times in milliseconds. */
void report_benchmark(const options *o, const double *ms);

#endif
