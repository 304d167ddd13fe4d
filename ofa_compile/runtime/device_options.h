/* Command line of the board's daemon. */
#ifndef OFA_DEVICE_OPTIONS_H
#define OFA_DEVICE_OPTIONS_H

#include <stdbool.h>

#include "device.h"

typedef struct {
    device_endpoint listen, tracker;
    bool has_tracker, is_help;
    const char *key, *token, *folder;
    const char *own_address;
    char *const *launcher; /* words before each program; ends with NULL */
} device_options;

/* Return 0, or an exit code after saying on stderr what is wrong. */
int parse_device_options(device_options *o, int argc, char **argv);

#endif
