/* Little-endian messages over a socket, as TVM RPC sends them. */
#ifndef OFA_DEVICE_WIRE_H
#define OFA_DEVICE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes to read from or to add to. A reader that runs off the end stays failed and reads zeros. */
typedef struct {
    unsigned char *data;
    size_t size, capacity, position;
    bool is_failed;
} message;

bool wire_receive(int fd, void *data, size_t size);
bool wire_send(int fd, const void *data, size_t size);

void message_free(message *m);
void message_clear(message *m);
/* Make room for `size` bytes to be filled in; false when there is no memory. */
bool message_resize(message *m, size_t size);

int32_t message_i32(message *m);
int64_t message_i64(message *m);
/* Bytes behind a 64-bit length, inside the message. */
const char *message_bytes(message *m, size_t *size);

void message_add(message *m, const void *data, size_t size);
void message_add_i32(message *m, int32_t value);
void message_add_i64(message *m, int64_t value);

#endif
