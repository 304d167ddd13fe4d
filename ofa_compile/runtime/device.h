/* The board's daemon: a TVM RPC server that knows nothing but to run uploaded programs. */
#ifndef OFA_DEVICE_H
#define OFA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEVICE_RPC_MAGIC 0xFF271
#define DEVICE_MAX_KEY 128

/* Serve one client until it leaves; the current folder is the session's own.
 * `launcher` holds words to put before each program, and ends with NULL. */
void device_serve(int client, char *const launcher[]);

typedef struct {
    const char *address; /* numeric */
    int port;
} device_endpoint;

/* Open a connection that gives up after `seconds` of silence; -1 with errno. */
int device_connect(const device_endpoint *to, int seconds);

typedef struct {
    device_endpoint tracker;
    const char *key;
    const char *own_address; /* what clients shall connect to; NULL: as the tracker sees us */
    int own_port;
    int fd; /* -1: not connected */
    int num_unseen;
    char match_key[DEVICE_MAX_KEY + 40];
} device_registration;

/* Connect to the tracker and offer this board to one client; false with errno. */
bool device_offer(device_registration *r);
/* Call every two seconds: keeps the offer alive. False when the tracker is lost. */
bool device_renew(device_registration *r);
void device_withdraw(device_registration *r);

#endif
