/* gpu_program.h through CUDA's driver: memory, modules, and one graph for the whole run. */
#include "gpu_program.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_device.h"
#include "ofa_call.h"
#include "ofa_network.h"

/* The graphs: a run with copies of input and output; the same with an event around every step; and
 * the steps alone between two events. All but the first are captured when first wanted. */
enum { RUN, TIMED_STEPS, TIMED_RUN, NUM_GRAPHS };

struct gpu_program {
    cuda_device device;
    CUdeviceptr weights, arena;
    unsigned char *host; /* pinned: the input, then the output */
    CUmodule *modules;   /* by kernel */
    CUfunction *functions;
    CUgraph graphs[NUM_GRAPHS];
    CUgraphExec runs[NUM_GRAPHS];
    CUevent *events; /* around every step; created when first wanted */
};

#define CALL(p, name, ...) cuda_check(&(p)->device, (p)->device.cu.name(__VA_ARGS__), #name)

/* Arena and host memory */

static int create_memory(gpu_program *p) {
    const gpu_network *n = &OFA_GPU_NETWORK;
    size_t host = gpu_round_up(ofa_input_bytes(&OFA_NETWORK)) + ofa_output_bytes(&OFA_NETWORK);
    void *pinned = NULL;
    int code = CALL(p, MemAlloc, &p->weights, n->weights_bytes);
    if (code == 0) code = CALL(p, MemAlloc, &p->arena, OFA_NETWORK.arena_bytes);
    if (code == 0) code = CALL(p, MemHostAlloc, &pinned, host, 0);
    p->host = pinned;
    /* In our own stream: the default one may be another's, who captures a graph or never rests. */
    if (code == 0)
        code = CALL(p, MemcpyHtoDAsync, p->weights, n->weights, n->weights_bytes, p->device.stream);
    return code;
}

/* Kernels */

/* A driver that refuses code may be too old, or the code may be for other GPUs. */
static int explain_refusal(const gpu_program *p, int code) {
    const cuda_device *d = &p->device;
    if (code != GPU_NO_CODE && code != GPU_OLD_DRIVER) return code;
    int needed = OFA_GPU_NETWORK.built_with, known = d->driver_version;
    if (known / 1000 < needed / 1000)
        return gpu_failed(GPU_OLD_DRIVER, "it knows CUDA %d.%d, the bundle is built with %d.%d",
                          known / 1000, known % 1000 / 10, needed / 1000, needed % 1000 / 10);
    return gpu_failed(GPU_NO_CODE, "%.60s is sm_%d, the bundle has %s", d->name, d->capability,
                      OFA_GPU_NETWORK.built_for);
}

static int load_kernel(gpu_program *p, uint32_t number) {
    const gpu_kernel_head *head = OFA_GPU_NETWORK.kernels[number].head;
    int code = CALL(p, ModuleLoadData, &p->modules[number], head + 1);
    if (code == 0)
        code = CALL(p, ModuleGetFunction, &p->functions[number], p->modules[number], head->name);
    return explain_refusal(p, code);
}

static int launch(gpu_program *p, const gpu_step *step) {
    const gpu_kernel_head *head = OFA_GPU_NETWORK.kernels[step->kernel].head;
    CUdeviceptr values[GPU_MAX_ARGUMENTS];
    void *pointers[GPU_MAX_ARGUMENTS];
    for (uint32_t i = 0; i < head->num_arguments; ++i) {
        const gpu_argument *argument = &step->arguments[i];
        values[i] = (argument->is_weight ? p->weights : p->arena) + argument->offset;
        pointers[i] = &values[i];
    }
    return CALL(p, LaunchKernel, p->functions[step->kernel], head->grid[0], head->grid[1],
                head->grid[2], head->threads[0], head->threads[1], head->threads[2], 0,
                p->device.stream, pointers, NULL);
}

/* Make an event a node of the graph that is captured; without the flag it would leave no trace. */
static int record(gpu_program *p, int32_t event) {
    return CALL(p, EventRecordWithFlags, p->events[event], p->device.stream,
                CU_EVENT_RECORD_EXTERNAL);
}

static int launch_steps(gpu_program *p, bool with_events) {
    int code = 0;
    for (int32_t i = 0; code == 0 && i < OFA_NETWORK.num_steps; ++i) {
        code = launch(p, &OFA_GPU_NETWORK.steps[i]);
        if (code == 0 && with_events) code = record(p, i + 1);
    }
    return code;
}

static int upload_input(gpu_program *p) {
    return CALL(p, MemcpyHtoDAsync, p->arena + OFA_GPU_NETWORK.input_offset, p->host,
                ofa_input_bytes(&OFA_NETWORK), p->device.stream);
}

static int download_output(gpu_program *p) {
    return CALL(p, MemcpyDtoHAsync, p->host + gpu_round_up(ofa_input_bytes(&OFA_NETWORK)),
                p->arena + OFA_NETWORK.output_offset, ofa_output_bytes(&OFA_NETWORK), p->device.stream);
}

/* Run every kernel once on zeros: drivers load code lazily, which a capture does not allow. */
static int try_kernels(gpu_program *p) {
    CUstream stream = p->device.stream;
    int code = CALL(p, MemsetAsync, p->arena, 0, OFA_NETWORK.arena_bytes, stream);
    if (code == 0) code = explain_refusal(p, launch_steps(p, false));
    return code != 0 ? code : cuda_wait(&p->device);
}

static int put_into_graph(gpu_program *p, int kind) {
    int code = kind != TIMED_RUN ? upload_input(p) : 0;
    if (code == 0 && kind != RUN) code = record(p, 0);
    if (code == 0) code = launch_steps(p, kind == TIMED_STEPS);
    if (code == 0 && kind == TIMED_RUN) code = record(p, 1);
    return code != 0 || kind == TIMED_RUN ? code : download_output(p);
}

/* Capture a graph that is not there yet. */
static int capture(gpu_program *p, int kind) {
    CUstream stream = p->device.stream;
    if (p->runs[kind] != NULL) return 0;
    if (p->graphs[kind] == NULL) {
        int code = CALL(p, StreamBeginCapture, stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        if (code != 0) return code;
        code = put_into_graph(p, kind);
        /* Even a capture that failed has to end. */
        CUgraph graph = NULL;
        CUresult end = p->device.cu.StreamEndCapture(stream, &graph);
        if (code != 0 && graph != NULL) p->device.cu.GraphDestroy(graph);
        if (code == 0) code = cuda_check(&p->device, end, "StreamEndCapture");
        if (code != 0) return code;
        p->graphs[kind] = graph;
    }
    return CALL(p, GraphInstantiate, &p->runs[kind], p->graphs[kind], 0);
}

static int create(gpu_program *p) {
    const uint32_t count = OFA_GPU_NETWORK.num_kernels;
    p->modules = calloc(count, sizeof *p->modules);
    p->functions = calloc(count, sizeof *p->functions);
    if (p->modules == NULL || p->functions == NULL) return GPU_OUT_OF_MEMORY;
    int code = create_memory(p);
    for (uint32_t i = 0; code == 0 && i < count; ++i) code = load_kernel(p, i);
    if (code == 0) code = try_kernels(p);
    return code != 0 ? code : capture(p, RUN);
}

/* Give back all that exists. Of a lost device every call fails, and changes nothing. */
static void destroy(gpu_program *p) {
    const cuda_functions *cu = &p->device.cu;
    for (int kind = 0; kind < NUM_GRAPHS; ++kind) {
        if (p->runs[kind] != NULL) cu->GraphExecDestroy(p->runs[kind]);
        if (p->graphs[kind] != NULL) cu->GraphDestroy(p->graphs[kind]);
    }
    for (int32_t i = 0; p->events != NULL && i <= OFA_NETWORK.num_steps; ++i)
        if (p->events[i] != NULL) cu->EventDestroy(p->events[i]);
    for (uint32_t i = 0; p->modules != NULL && i < OFA_GPU_NETWORK.num_kernels; ++i)
        if (p->modules[i] != NULL) cu->ModuleUnload(p->modules[i]);
    if (p->host != NULL) cu->MemFreeHost(p->host);
    if (p->arena != 0) cu->MemFree(p->arena);
    if (p->weights != 0) cu->MemFree(p->weights);
}

int gpu_program_open(gpu_program **program) {
    gpu_program *p = calloc(1, sizeof *p);
    if (p == NULL) return GPU_OUT_OF_MEMORY;
    int code = cuda_open(&p->device, getenv("OFA_CUDA_DEVICE"));
    if (code != 0) {
        free(p);
        return code;
    }
    code = cuda_enter(&p->device);
    if (code == 0) {
        code = create(p);
        cuda_leave(&p->device);
    }
    if (code == 0)
        *program = p;
    else if (code != GPU_HUNG)
        gpu_program_close(p);
    return code;
}

void gpu_program_close(gpu_program *p) {
    if (cuda_enter(&p->device) == 0) {
        destroy(p);
        cuda_leave(&p->device);
    }
    free(p->modules);
    free(p->functions);
    free(p->events);
    cuda_close(&p->device);
    free(p);
}

/* Runs */

static int create_events(gpu_program *p) {
    size_t count = (size_t)OFA_NETWORK.num_steps + 1;
    if (p->events == NULL) p->events = calloc(count, sizeof *p->events);
    int code = p->events == NULL ? GPU_OUT_OF_MEMORY : 0;
    for (size_t i = 0; code == 0 && i < count; ++i)
        if (p->events[i] == NULL) code = CALL(p, EventCreate, &p->events[i], CU_EVENT_DEFAULT);
    return code;
}

static int run_graph(gpu_program *p, int kind) {
    int code = kind != RUN ? create_events(p) : 0;
    if (code == 0) code = capture(p, kind);
    if (code == 0) code = CALL(p, GraphLaunch, p->runs[kind], p->device.stream);
    return code != 0 ? code : cuda_wait(&p->device);
}

/* Read the device's clock: the time between each of `count` events and the next. */
static int read_times(gpu_program *p, int32_t count, double *milliseconds) {
    int code = 0;
    for (int32_t i = 0; code == 0 && i < count; ++i) {
        float elapsed = 0;
        code = CALL(p, EventElapsedTime, &elapsed, p->events[i], p->events[i + 1]);
        milliseconds[i] = (double)elapsed;
    }
    return code;
}

int gpu_program_run(gpu_program *p, const float *input, float *output,
                    double *step_milliseconds) {
    int code = cuda_enter(&p->device);
    if (code != 0) return code;
    memcpy(p->host, input, ofa_input_bytes(&OFA_NETWORK));
    code = run_graph(p, step_milliseconds != NULL ? TIMED_STEPS : RUN);
    if (code == 0 && step_milliseconds != NULL)
        code = read_times(p, OFA_NETWORK.num_steps, step_milliseconds);
    if (code == 0)
        memcpy(output, p->host + gpu_round_up(ofa_input_bytes(&OFA_NETWORK)),
               ofa_output_bytes(&OFA_NETWORK));
    cuda_leave(&p->device);
    return code;
}

int gpu_program_time(gpu_program *p, double *milliseconds) {
    int code = cuda_enter(&p->device);
    if (code != 0) return code;
    code = run_graph(p, TIMED_RUN);
    if (code == 0) code = read_times(p, 1, milliseconds);
    cuda_leave(&p->device);
    return code;
}

const char *gpu_program_explain(int code) { return gpu_explain(code, cuda_explain(code)); }
