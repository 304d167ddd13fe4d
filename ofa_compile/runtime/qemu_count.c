/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A plug-in for QEMU's user-mode emulators: how often each instruction was executed. It is a
 * separate program, built on the user's machine and loaded by QEMU (whose licence it shares);
 * nothing of it becomes part of a compiled network.
 *
 * Argument: out=FILE. Each line of the file is "ADDRESS COUNT", hexadecimal and decimal, for every
 * instruction that was executed; the first is "total COUNT".
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif

/* The few declarations that are used, in the words of the documented interface: distributions ship
 * the emulator without its header. */
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*tb_translated)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*tb_executed)(unsigned int cpu, void *data);
typedef void (*at_exit)(qemu_plugin_id_t id, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_translated callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, tb_executed callback,
                                          enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, at_exit callback, void *data);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = PLUGIN_API;
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                               char **argv);

/* Straight code that QEMU translated at once; the same address may be translated many times. */
typedef struct block {
    struct block *next;
    uint64_t executions;
    size_t size;
    uint64_t addresses[];
} block;

static block *blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char path[4096];

static void count(unsigned int cpu, void *data) {
    (void)cpu;
    __atomic_fetch_add(&((block *)data)->executions, 1, __ATOMIC_RELAXED);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    size_t size = qemu_plugin_tb_n_insns(tb);
    block *new = calloc(1, sizeof *new + size * sizeof new->addresses[0]);
    if (new == NULL) abort();
    new->size = size;
    for (size_t i = 0; i < size; i++)
        new->addresses[i] = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, i));
    pthread_mutex_lock(&lock);
    new->next = blocks;
    blocks = new;
    pthread_mutex_unlock(&lock);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, count, QEMU_PLUGIN_CB_NO_REGS, new);
}

static void write_counts(qemu_plugin_id_t id, void *data) {
    (void)id;
    (void)data;
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        perror(path);
        return;
    }
    uint64_t total = 0;
    for (const block *b = blocks; b != NULL; b = b->next) total += b->executions * b->size;
    fprintf(file, "total %" PRIu64 "\n", total);
    for (const block *b = blocks; b != NULL; b = b->next)
        for (size_t i = 0; i < b->size && b->executions > 0; i++)
            fprintf(file, "%" PRIx64 " %" PRIu64 "\n", b->addresses[i], b->executions);
    if (fclose(file) != 0) perror(path);
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++)
        if (strncmp(argv[i], "out=", 4) == 0 && strlen(argv[i] + 4) < sizeof path)
            strcpy(path, argv[i] + 4);
    if (path[0] == '\0') {
        fputs("qemu_count: pass out=FILE\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, write_counts, NULL);
    return 0;
}
