#include "device_wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

bool wire_receive(int fd, void *data, size_t size) {
    char *next = data;
    while (size > 0) {
        ssize_t got = recv(fd, next, size, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        next += got;
        size -= (size_t)got;
    }
    return true;
}

bool wire_send(int fd, const void *data, size_t size) {
    const char *next = data;
    while (size > 0) {
        ssize_t sent = send(fd, next, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        next += sent;
        size -= (size_t)sent;
    }
    return true;
}

void message_free(message *m) {
    free(m->data);
    memset(m, 0, sizeof *m);
}

void message_clear(message *m) {
    m->size = m->position = 0;
    m->is_failed = false;
}

bool message_resize(message *m, size_t size) {
    if (size > m->capacity) {
        size_t capacity = size < 2 * m->capacity ? 2 * m->capacity : size;
        unsigned char *data = realloc(m->data, capacity);
        if (data == NULL) {
            m->is_failed = true;
            return false;
        }
        m->data = data;
        m->capacity = capacity;
    }
    m->size = size;
    return true;
}

/* Read a number of `bytes` bytes. Byte by byte: boards may be of either endianness. */
static uint64_t take(message *m, int bytes) {
    if (m->is_failed || m->size - m->position < (size_t)bytes) {
        m->is_failed = true;
        return 0;
    }
    uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= (uint64_t)m->data[m->position++] << (8 * i);
    return value;
}

int32_t message_i32(message *m) { return (int32_t)(uint32_t)take(m, 4); }

int64_t message_i64(message *m) { return (int64_t)take(m, 8); }

const char *message_bytes(message *m, size_t *size) {
    uint64_t length = take(m, 8);
    if (m->is_failed || length > m->size - m->position) {
        m->is_failed = true;
        *size = 0;
        return "";
    }
    const char *bytes = (const char *)m->data + m->position;
    m->position += (size_t)length;
    *size = (size_t)length;
    return bytes;
}

void message_add(message *m, const void *data, size_t size) {
    size_t end = m->size;
    if (size > 0 && message_resize(m, end + size)) memcpy(m->data + end, data, size);
}

static void add_number(message *m, uint64_t value, int bytes) {
    unsigned char text[8];
    for (int i = 0; i < bytes; ++i) text[i] = (unsigned char)(value >> (8 * i));
    message_add(m, text, (size_t)bytes);
}

void message_add_i32(message *m, int32_t value) { add_number(m, (uint32_t)value, 4); }

void message_add_i64(message *m, int64_t value) { add_number(m, (uint64_t)value, 8); }
